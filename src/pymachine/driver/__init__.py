"""The public package for drivers, and the registry that finds them. All other packages may change at any time.

- `contract`: the class `Driver`, with its arguments and results
- `options`: the options that a driver adds to `create`
- `abilities`: optional abilities
- `base_config`: the fields of docker-machine that every machine has
- `errors`: the errors to raise
- `fields`: the types of the values in a driver's configuration
- `shares`: shared folders
- `names`: which machine names are allowed, and the host name of each
- `testing`: the test suite that every driver must pass
- `kit`: building blocks that many drivers need
"""
