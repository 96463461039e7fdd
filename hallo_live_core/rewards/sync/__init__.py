"""Lip sync: S3FD finds faces, SyncNet v2 hears whether the mouth fits the sound (spec 08 §2)."""
