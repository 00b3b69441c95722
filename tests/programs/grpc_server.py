"""A gRPC server with methods of every kind, over TLS. Messages are plain bytes."""
import pathlib
import sys
from concurrent import futures

import grpc


def unary(request, context):
    context.send_initial_metadata((("x-initial", "one"),))
    context.set_trailing_metadata((("x-trailing", "two"), ("x-binary-bin", bytes(range(256)))))
    return request[::-1]


def gives(request, _context):
    for number in range(int(request)):
        yield b"%d" % number * 100


def takes(requests, _context):
    return b"%d" % sum(len(request) for request in requests)


def both(requests, context):
    # Each answer depends on the question before it: a proxy that waits for more never lets one through.
    for request in requests:
        yield request.upper()
    context.set_trailing_metadata((("x-end", "after all"),))


def fails(_request, context):
    context.abort(grpc.StatusCode.FAILED_PRECONDITION, "no: \u00e4 % \u20ac")


class Methods(grpc.GenericRpcHandler):
    def service(self, details):
        return {
            "/test.Test/Unary": grpc.unary_unary_rpc_method_handler(unary),
            "/test.Test/Gives": grpc.unary_stream_rpc_method_handler(gives),
            "/test.Test/Takes": grpc.stream_unary_rpc_method_handler(takes),
            "/test.Test/Both": grpc.stream_stream_rpc_method_handler(both),
            "/test.Test/Fails": grpc.unary_unary_rpc_method_handler(fails),
        }.get(details.method)


certificate, key = (pathlib.Path(name).read_bytes() for name in sys.argv[1:3])
server = grpc.server(futures.ThreadPoolExecutor(8), options=[("grpc.max_receive_message_length", 16 << 20)])
server.add_generic_rpc_handlers((Methods(),))
server.add_secure_port("[::]:50051", grpc.ssl_server_credentials(((key, certificate),)))
server.start()
server.wait_for_termination()
