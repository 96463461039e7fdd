"""Pure tensor functions: no modules, no state, no devices of their own."""
