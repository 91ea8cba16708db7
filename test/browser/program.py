"""What the browser meets inside a sandbox: a page with a script and a cookie,
an echo, events, and a WebSocket (RFC 6455), with Python's own library alone."""
import base64
import hashlib
import http.server
import struct
import sys
import time

PAGE = b'<!doctype html><title>Inside</title><script src="/script.js"></script><h1>Inside</h1>'


class Program(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if self.headers.get("Upgrade", "").lower() == "websocket":
            self.socket()
        elif self.path == "/events":
            self.events()
        elif self.path == "/script.js":
            self.reply(b"window.loaded = 'by script'", "text/javascript")
        elif self.path == "/cookie":
            self.reply(self.headers.get("Cookie", "").encode(), "text/plain")
        else:
            self.reply(PAGE, "text/html")

    def do_POST(self):
        self.reply(self.rfile.read(int(self.headers["Content-Length"])), "text/plain; charset=utf-8")

    def reply(self, body, kind):
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Set-Cookie", "seen=yes; Path=/; Secure; HttpOnly; SameSite=Lax")
        self.end_headers()
        self.wfile.write(body)

    def events(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        for i in range(3):
            self.wfile.write(f"data: {i}\n\n".encode())
            self.wfile.flush()
            time.sleep(0.3)
        self.close_connection = True

    def socket(self):
        key = self.headers["Sec-WebSocket-Key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        self.send_response(101)
        self.send_header("Upgrade", "websocket")
        self.send_header("Connection", "Upgrade")
        self.send_header("Sec-WebSocket-Accept", base64.b64encode(hashlib.sha1(key.encode()).digest()).decode())
        self.end_headers()
        self.close_connection = True
        while self.frame():
            pass

    def frame(self):
        """Sends one frame back; false when the client closes or is gone."""
        head = self.rfile.read(2)
        if len(head) < 2:
            return False
        size = head[1] & 127
        if size == 126:
            size = struct.unpack(">H", self.rfile.read(2))[0]
        elif size == 127:
            size = struct.unpack(">Q", self.rfile.read(8))[0]
        mask = self.rfile.read(4)
        data = bytes(byte ^ mask[i % 4] for i, byte in enumerate(self.rfile.read(size)))
        if size < 126:
            length = bytes([size])
        elif size < 65536:
            length = b"\x7e" + struct.pack(">H", size)
        else:
            length = b"\x7f" + struct.pack(">Q", size)
        self.wfile.write(head[:1] + length + data)
        return head[0] & 15 != 8

    def log_message(self, *_):
        pass


http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Program).serve_forever()
