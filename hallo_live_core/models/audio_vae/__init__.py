"""The audio VAE of MMAudio and the BigVGAN vocoder, 16 kHz (spec 04)."""
