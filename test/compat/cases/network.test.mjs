// Programs inside a sandbox as the world sees them: pages, streams, WebSockets
// and errors under the host name, over TLS.
import assert from 'node:assert/strict'
import { createHash, randomBytes } from 'node:crypto'
import { test } from 'node:test'
import { Sandbox, eventually, fetchHost, killAfter, request, slow, socketTo, withSandbox } from './lib.mjs'

// Tells what it was asked, streams events, sets cookies, takes uploads, and
// echoes WebSocket messages (RFC 6455), with Python's own library alone.
const program = `
import base64, hashlib, http.server, json, struct, sys, time

class Program(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'

    def do_GET(self):
        if self.headers.get('Upgrade', '').lower() == 'websocket': return self.socket()
        if self.path == '/events': return self.events()
        headers = {k.lower(): v for k, v in self.headers.items()}
        self.reply(json.dumps({'method': self.command, 'path': self.path, 'headers': headers}).encode())

    def do_POST(self):
        digest, left = hashlib.sha256(), int(self.headers['Content-Length'])
        while left:
            part = self.rfile.read(min(left, 65536))
            digest.update(part)
            left -= len(part)
        self.reply(digest.hexdigest().encode())

    do_PUT = do_DELETE = do_PATCH = do_OPTIONS = do_GET

    def reply(self, body):
        self.send_response(200)
        self.send_header('Set-Cookie', 'seen=yes; Path=/')
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def events(self):
        self.send_response(200)
        self.send_header('Content-Type', 'text/event-stream')
        self.send_header('Connection', 'close')
        self.end_headers()
        for i in range(3):
            self.wfile.write(f'data: {i}\\n\\n'.encode())
            self.wfile.flush()
            time.sleep(0.4)
        self.close_connection = True

    def socket(self):
        key = self.headers['Sec-WebSocket-Key'] + '258EAFA5-E914-47DA-95CA-C5AB0DC85B11'
        self.send_response(101)
        self.send_header('Upgrade', 'websocket')
        self.send_header('Connection', 'Upgrade')
        self.send_header('Sec-WebSocket-Accept', base64.b64encode(hashlib.sha1(key.encode()).digest()).decode())
        self.end_headers()
        self.close_connection = True
        while True:
            first, size = self.rfile.read(2)
            size &= 127
            if size == 126: size = struct.unpack('>H', self.rfile.read(2))[0]
            elif size == 127: size = struct.unpack('>Q', self.rfile.read(8))[0]
            mask = self.rfile.read(4)
            data = bytes(b ^ mask[i % 4] for i, b in enumerate(self.rfile.read(size)))
            head = bytes([first]) + (bytes([size]) if size < 126 else b'\\x7e' + struct.pack('>H', size) if size < 65536 else b'\\x7f' + struct.pack('>Q', size))
            self.wfile.write(head + data)
            if first & 15 == 8: return

    def log_message(self, *_): pass

http.server.ThreadingHTTPServer(('127.0.0.1', int(sys.argv[1])), Program).serve_forever()
`

/** Starts the program in the sandbox and returns the host it is reached by. */
async function serve(sandbox, port = 8000) {
  await sandbox.files.write('/tmp/program.py', program)
  await sandbox.commands.run(`exec python3 /tmp/program.py ${port}`, { background: true, timeoutMs: 0 })
  await eventually('the program listens', async () =>
    (await sandbox.commands.run(`curl -so /dev/null http://127.0.0.1:${port}/ || echo no`)).stdout === '')
  return sandbox.getHost(port)
}

test('getHost names a page that opens over TLS', () =>
  withSandbox(async (sandbox) => {
    const host = await serve(sandbox)
    const reply = await fetchHost(host, '/a/b?c=d%20e', { headers: { 'X-Own': 'yes' } })
    assert.equal(reply.status, 200)
    assert.equal(reply.headers.get('set-cookie'), 'seen=yes; Path=/')
    const seen = await reply.json()
    assert.equal(seen.path, '/a/b?c=d%20e')
    assert.equal(seen.headers['x-own'], 'yes')
    assert.equal(seen.headers.host, host)
    assert.equal(seen.headers['x-forwarded-proto'], 'https')
  }))

test('every method reaches the program', () =>
  withSandbox(async (sandbox) => {
    const host = await serve(sandbox)
    for (const method of ['PUT', 'PATCH', 'DELETE', 'OPTIONS']) {
      assert.equal((await (await fetchHost(host, '/', { method })).json()).method, method)
    }
  }))

test('twenty megabytes are uploaded', () =>
  withSandbox(async (sandbox) => {
    const host = await serve(sandbox)
    const body = randomBytes(20 << 20)
    const reply = await fetchHost(host, '/', { method: 'POST', body })
    assert.equal(await reply.text(), createHash('sha256').update(body).digest('hex'))
  }))

test('events arrive one by one', () =>
  withSandbox(async (sandbox) => {
    const host = await serve(sandbox)
    const start = Date.now()
    const reply = await fetchHost(host, '/events')
    assert.equal(reply.headers.get('content-type'), 'text/event-stream')
    const arrivals = []
    for await (const chunk of reply.body) arrivals.push([Buffer.from(chunk).toString(), Date.now() - start])
    assert.equal(arrivals.map(([text]) => text).join(''), 'data: 0\n\ndata: 1\n\ndata: 2\n\n')
    assert.ok(arrivals.length >= 3 && arrivals.at(-1)[1] - arrivals[0][1] > 500, JSON.stringify(arrivals))
  }))

/** Opens a WebSocket, waits for it, and collects what it says. */
async function conversation(host, path, init) {
  const socket = socketTo(host, path, init)
  const talk = { socket, heard: [], ended: undefined }
  socket.binaryType = 'arraybuffer'
  socket.onmessage = ({ data }) => talk.heard.push(data)
  socket.onclose = (event) => (talk.ended = event)
  await new Promise((resolve, reject) => {
    socket.onopen = resolve
    socket.onerror = (event) => reject(event.error ?? new Error('the socket failed'))
  })
  return talk
}

test('a WebSocket echoes text and bytes of every size', () =>
  withSandbox(async (sandbox) => {
    const { socket, heard } = await conversation(await serve(sandbox), '/socket')
    const texts = ['hello', 'ü 🚀', 'x'.repeat(200), 'y'.repeat(70_000)]
    for (const text of texts) socket.send(text)
    socket.send(new Uint8Array([0, 1, 254, 255]))
    await eventually('all came back', () => heard.length === texts.length + 1)
    assert.deepEqual(heard.slice(0, -1), texts)
    assert.deepEqual([...new Uint8Array(heard.at(-1))], [0, 1, 254, 255])
    socket.close()
  }))

test('a WebSocket stays open while nothing is said', () =>
  withSandbox(async (sandbox) => {
    const talk = await conversation(await serve(sandbox), '/')
    await new Promise((resolve) => setTimeout(resolve, 2_000))
    talk.socket.send('still there')
    await eventually('the echo', () => talk.heard.includes('still there'))
    assert.equal(talk.ended, undefined)
    talk.socket.close()
  }))

test('killing the sandbox ends its WebSockets', () =>
  withSandbox(async (sandbox) => {
    const talk = await conversation(await serve(sandbox), '/')
    await sandbox.kill()
    await eventually('the socket is closed', () => talk.ended !== undefined)
  }))

test('a port on which nothing listens is an error for programs and a page for people', () =>
  withSandbox(async (sandbox) => {
    const host = sandbox.getHost(8123)
    const json = await fetchHost(host)
    assert.equal(json.status, 502)
    const error = await json.json()
    assert.equal(error.sandboxId, sandbox.sandboxId)
    assert.equal(error.port, 8123)
    assert.equal(error.code, 502)
    assert.match(error.message, /port/i)
    const page = await fetchHost(host, '/', { headers: { Accept: 'text/html,application/xhtml+xml,*/*;q=0.8' } })
    assert.equal(page.status, 502)
    assert.match(page.headers.get('content-type'), /^text\/html/)
    const html = await page.text()
    assert.ok(html.includes('8123') && html.includes(sandbox.sandboxId), html)
  }))

test('a sandbox that is gone is an error too', async () => {
  let host
  await withSandbox((sandbox) => (host = sandbox.getHost(8000)))
  const reply = await fetchHost(host)
  assert.equal(reply.status, 502)
  assert.match((await reply.json()).message, /not found/i)
})

test('a program that starts later is reached then', () =>
  withSandbox(async (sandbox) => {
    assert.equal((await fetchHost(sandbox.getHost(8000))).status, 502)
    assert.equal((await fetchHost(await serve(sandbox))).status, 200)
  }))

test('maskRequestHost is what the program sees as its host', () =>
  withSandbox({ network: { maskRequestHost: 'localhost:${PORT}' } }, async (sandbox) => {
    const host = await serve(sandbox)
    const { headers } = await (await fetchHost(host)).json()
    assert.equal(headers.host, 'localhost:8000')
    assert.equal(headers['x-forwarded-host'], host)
    assert.equal((await sandbox.getInfo()).network.maskRequestHost, 'localhost:${PORT}')
  }))

test('closed public traffic needs the token of the sandbox', () =>
  withSandbox({ network: { allowPublicTraffic: false } }, async (sandbox) => {
    assert.ok(sandbox.trafficAccessToken?.length > 20)
    const host = await serve(sandbox)
    const withToken = (token) => fetchHost(host, '/', { headers: { 'e2b-traffic-access-token': token } })
    assert.equal((await fetchHost(host)).status, 403)
    assert.equal((await withToken('guess')).status, 403)
    const reply = await withToken(sandbox.trafficAccessToken)
    assert.equal(reply.status, 200)
    assert.equal((await reply.json()).headers['e2b-traffic-access-token'], undefined, 'the token was handed on')
    const other = await Sandbox.connect(sandbox.sandboxId)
    assert.equal(other.trafficAccessToken, sandbox.trafficAccessToken)
    await assert.rejects(conversation(host, '/'))
    const { socket } = await conversation(host, '/', { headers: { 'e2b-traffic-access-token': sandbox.trafficAccessToken } })
    socket.close()
    assert.equal((await sandbox.getInfo()).network.allowPublicTraffic, false)
  }))

test('open public traffic has no token', () =>
  withSandbox((sandbox) => assert.equal(sandbox.trafficAccessToken, undefined)))

test('one token does not open another sandbox', async (t) => {
  const network = { allowPublicTraffic: false }
  const [a, b] = await Promise.all([1, 2].map(() => Sandbox.create({ network, timeoutMs: 120_000 * slow })))
  killAfter(t, a, b)
  const host = await serve(b)
  assert.equal((await fetchHost(host, '/', { headers: { 'e2b-traffic-access-token': a.trafficAccessToken } })).status, 403)
})

test('what the server alone may say to the agent cannot be said from outside', () =>
  withSandbox(async (sandbox) => {
    for (const path of ['/init', '//init', '/./init', '/%69nit', '/freeze', '/sandlot/freeze', '/envs']) {
      const headers = { 'E2b-Sandbox-Id': sandbox.sandboxId, 'E2b-Sandbox-Port': '49983', 'Content-Type': 'application/json' }
      const reply = await request({ path, method: 'POST', body: '{"envVars":{"STOLEN":"yes"}}', headers })
      assert.ok(reply.status >= 400, `${path}: ${reply.status}`)
    }
    assert.equal((await sandbox.commands.run('echo "${STOLEN-no}"')).stdout, 'no\n')
  }))

test('fifty pages at once', () =>
  withSandbox(async (sandbox) => {
    const host = await serve(sandbox)
    const replies = await Promise.all(Array.from({ length: 50 }, (_, i) => fetchHost(host, `/${i}`).then((r) => r.json())))
    assert.deepEqual(replies.map((r) => r.path), Array.from({ length: 50 }, (_, i) => `/${i}`))
  }))
