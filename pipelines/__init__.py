"""What a class-conditional diffusion transformer is: load, name, encode, denoise, sample, save."""
