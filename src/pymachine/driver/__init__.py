"""What drivers import, and the registry that finds them. All other packages of pymachine may change at any time.

- `contract`: `Driver`, and what it is given and returns
- `options`: the flags that a driver adds to `create`
- `abilities`: what only some drivers can do
- `base_config`: the fields of docker-machine's that every machine has
- `errors`: the errors to raise
- `fields`: what each value of a driver's record must be
- `names`: which names machines may have, and the host name of each
- `testing`: the suite of tests that every driver must pass
- `kit`: modules for what many drivers need, see there
"""
