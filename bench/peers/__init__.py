"""Registration as other packages have it, each a project by its own documentation, on the same database and server.

They run in an environment of their own (`bench/requirements.txt`), and import nothing of the service's but its hasher.
"""
