"""Random traces of operations, once through Toril and once through BullMQ for Node.

After every step the two databases are compared key by key, and the replies too.
"""
