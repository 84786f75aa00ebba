"""Runs in the tests' virtual environment: moto's S3, one request at a time.

s3_server.py PORT

moto looks whether an object is there and then writes it, in threads: two conditional puts at the same moment could both
succeed, which no real store allows.
"""

import io
import sys
import threading

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import run_simple


class OneAtATime:
    def __init__(self, application):
        self.application = application
        self.turn = threading.Lock()

    def __call__(self, environment, start_response):
        length = int(environment.get("CONTENT_LENGTH") or 0)
        if length:
            # read outside of the turn: a slow sender must not stop the others
            environment["wsgi.input"] = io.BytesIO(environment["wsgi.input"].read(length))
        with self.turn:
            return list(self.application(environment, start_response))


if __name__ == "__main__":
    served = OneAtATime(DomainDispatcherApplication(create_backend_app))
    run_simple("127.0.0.1", int(sys.argv[1]), served, threaded=True, request_handler=MotoRequestHandler)
