"""timm_asap: alias-free downsampling for every convolutional network of timm."""
