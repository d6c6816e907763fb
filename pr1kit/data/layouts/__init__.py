"""How the files of each published data set are laid out, one module a family of layouts."""
