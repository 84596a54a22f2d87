"""What the tests stand on: a runner for the installed program, a registry, images and packages for it."""
