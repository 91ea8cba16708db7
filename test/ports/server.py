# What runs inside the sandbox: an HTTP server that tells what it was asked,
# counts what it is sent, sends what is wanted, and echoes upgraded connections.
import http.server, json, ssl, sys

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'

    def reply(self, data):
        self.send_response(200)
        self.send_header('Content-Length', str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self):
        if 'Upgrade' in self.headers:
            return self.echo()
        if self.path.startswith('/zeros/'):
            return self.zeros(int(self.path.rsplit('/', 1)[1]))
        self.reply(json.dumps({'port': self.server.server_port, 'headers': {k.lower(): v for k, v in self.headers.items()}}).encode())

    def do_PUT(self):
        left = total = int(self.headers['Content-Length'])
        while left:
            left -= len(self.rfile.read1(min(left, 1 << 18)))
        self.reply(str(total).encode())

    def zeros(self, n):
        self.send_response(200)
        self.send_header('Content-Length', str(n))
        self.end_headers()
        block = bytes(1 << 18)
        for start in range(0, n, len(block)):
            self.wfile.write(block[:n - start])

    def echo(self):
        self.send_response_only(101)
        self.send_header('Connection', 'Upgrade')
        self.send_header('Upgrade', self.headers['Upgrade'])
        self.end_headers()
        while data := self.rfile.read1(1 << 16):
            self.wfile.write(data)
        self.close_connection = True

    def log_message(self, *args):
        pass

class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 1024

server = Server(('127.0.0.1', int(sys.argv[1])), Handler)
if len(sys.argv) > 2:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(sys.argv[2])
    server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
