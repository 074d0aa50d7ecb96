"""Delivery: facts from the log to an OTLP receiver, each at least once, however long the receiver is away.

``target`` says where to, ``http`` and ``grpc`` speak with it, ``shipper`` decides what an answer means, ``outbox`` does
it in a process that records. Where facts come from, and how far delivery is, is an ``Outlet`` of the log.
"""
