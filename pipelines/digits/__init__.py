"""The embedded model ``digits``: weights as safetensors, its card, and the real images that it was trained on."""
