"""Calls each method of grpc_server.py, and prints all that a client can see of the answers."""
import hashlib
import queue
import sys

import grpc

options = [("grpc.max_receive_message_length", 16 << 20)]
channel = grpc.secure_channel(sys.argv[1], grpc.ssl_channel_credentials(), options)


def metadata(pairs):
    return sorted((key, value) for key, value in pairs if key.startswith("x-"))


try:
    large = bytes(n % 251 for n in range(3_000_000))
    for request in (b"", b"abc", large):
        answer, call = channel.unary_unary("/test.Test/Unary").with_call(request, timeout=60)
        assert answer == request[::-1]
        print("unary", len(answer), hashlib.sha256(answer).hexdigest(), call.code())
        print(metadata(call.initial_metadata()), metadata(call.trailing_metadata()))
    stream = channel.unary_stream("/test.Test/Gives")(b"2000", timeout=60)
    print("gives", hashlib.sha256(b"|".join(stream)).hexdigest(), stream.code())
    print("takes", channel.stream_unary("/test.Test/Takes")((b"x" * n for n in range(1_000)), timeout=60))
    questions = queue.Queue()
    stream = channel.stream_stream("/test.Test/Both")(iter(questions.get, None), timeout=60)
    for number in range(50):
        questions.put(b"question %d" % number)
        assert next(stream) == b"QUESTION %d" % number
    questions.put(None)
    print("both", list(stream), stream.code(), metadata(stream.trailing_metadata()))
    try:
        channel.unary_unary("/test.Test/Fails")(b"", timeout=60)
    except grpc.RpcError as error:
        print("fails", error.code(), error.details())
    try:
        channel.unary_unary("/test.Test/None")(b"", timeout=60)
    except grpc.RpcError as error:
        print("none", error.code())
except grpc.RpcError as error:
    sys.exit(f"{error.code()} {error.details()}")
print("grpc: done")
