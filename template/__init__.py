"""What makes a service of this starter: the tasks of the copier template (`copier.yml`), and `make new`."""
