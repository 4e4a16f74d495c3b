"""Other model servers, each out of its package and in an environment of its own, measured beside this one."""
