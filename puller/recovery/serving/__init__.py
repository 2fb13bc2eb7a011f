"""A restore point as NBD exports, served by nbdkit with a plugin of puller (docs/serving.md).

What other rooms use::

    from puller.recovery.serving.server import Server, Service

    with Server(repository, point, Service(socket=path)) as server:
        server.exports      # (Export(disk="vda", uri="nbd+unix:///vda?socket=...", size=...), ...)
        server.uri("vda")   # the same, by disk; without a disk, that of the first
        server.socket       # the path of the Unix socket; None with a port
        server.pid          # of nbdkit
        server.wait(scope)  # until it ends by itself (raises ServeFailed) or the scope is cancelled

``repository`` is an open repository, ``point`` a ``Point``. ``Service()`` serves all disks at a private
socket. The constructor returns once clients can connect, or raises within a known time. The server ends with
``end``, with the context, and when its process dies, even by SIGKILL: it holds one end of a pair of sockets.
A server that is to outlive its caller is a process of its own: ``puller serve POINT --socket PATH``. It
replaces the socket that a killed server has left at PATH.
"""
