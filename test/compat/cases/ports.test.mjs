// Servers inside a sandbox, reached from outside through the one listener: by
// headers as the SDKs do for their own traffic, and by host name as browsers do.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Sandbox, eventually, request, server, withSandbox } from './lib.mjs'

const byHeader = (sandbox, port, more = {}) =>
  request({ ...more, headers: { 'E2b-Sandbox-Id': sandbox.sandboxId, 'E2b-Sandbox-Port': String(port), ...more.headers } })
const byHost = (host, more = {}) => request({ ...more, headers: { Host: host, ...more.headers } })

// Answers every request with what it received.
const echoServer = `
import http.server, json
class Echo(http.server.BaseHTTPRequestHandler):
    def answer(self):
        body = self.rfile.read(int(self.headers.get('Content-Length') or 0)).decode()
        out = json.dumps({'method': self.command, 'path': self.path, 'body': body}).encode()
        self.send_response(201)
        self.send_header('Content-Length', str(len(out)))
        self.send_header('X-Inside', 'yes')
        self.end_headers()
        self.wfile.write(out)
    do_GET = do_POST = answer
http.server.ThreadingHTTPServer(('ADDRESS', PORT), Echo).serve_forever()
`

async function serve(sandbox, port, address = '0.0.0.0') {
  await sandbox.files.write('/tmp/echo.py', echoServer.replace('ADDRESS', address).replace('PORT', String(port)))
  await sandbox.commands.run('exec python3 /tmp/echo.py', { background: true, timeoutMs: 0 })
  await eventually('the server answers', async () => (await byHeader(sandbox, port)).status === 201)
}

test('getHost names the port and the sandbox', () =>
  withSandbox((sandbox) => {
    assert.ok(sandbox.getHost(8000).startsWith(`8000-${sandbox.sandboxId}.`), sandbox.getHost(8000))
  }))

test('a server inside is reached by headers', () =>
  withSandbox(async (sandbox) => {
    await serve(sandbox, 8000)
    const reply = await byHeader(sandbox, 8000, { path: '/a/b?c=d%20e', method: 'POST', body: 'hello' })
    assert.equal(reply.status, 201)
    assert.equal(reply.headers['x-inside'], 'yes')
    assert.deepEqual(JSON.parse(reply.body), { method: 'POST', path: '/a/b?c=d%20e', body: 'hello' })
  }))

test('a server inside is reached by host name', () =>
  withSandbox(async (sandbox) => {
    await serve(sandbox, 8000)
    const { port } = server
    const name = `8000-${sandbox.sandboxId}.localhost`
    for (const host of [sandbox.getHost(8000), name, `${name}:${port}`, `8000-${sandbox.sandboxId}-label.localhost`]) {
      const reply = await byHost(host, { path: '/sandboxes' })
      assert.equal(reply.status, 201, host)
      assert.equal(JSON.parse(reply.body).path, '/sandboxes')
    }
  }))

test('a server bound to loopback inside is reached too', () =>
  withSandbox(async (sandbox) => {
    await serve(sandbox, 9000, '127.0.0.1')
    assert.equal((await byHeader(sandbox, 9000)).status, 201)
  }))

test('each sandbox has its own ports', () =>
  withSandbox((a) =>
    withSandbox(async (b) => {
      await Promise.all([a, b].map(async (sandbox) => {
        await sandbox.files.write('/tmp/www/index.html', sandbox.sandboxId)
        await sandbox.commands.run('cd /tmp/www && exec python3 -m http.server 8000', { background: true, timeoutMs: 0 })
        await eventually('the server answers', async () => (await byHeader(sandbox, 8000)).status === 200)
      }))
      assert.equal((await byHeader(a, 8000)).body, a.sandboxId)
      assert.equal((await byHost(b.getHost(8000))).body, b.sandboxId)
    })))

test('a port without a server answers 502', () =>
  withSandbox(async (sandbox) => {
    assert.equal((await byHeader(sandbox, 8123)).status, 502)
    assert.equal((await byHost(sandbox.getHost(8123))).status, 502)
  }))

test('a dead sandbox answers 502', async () => {
  let host
  await withSandbox((sandbox) => (host = sandbox.getHost(8000)))
  assert.equal((await byHost(host)).status, 502)
})

test('the data plane needs the token of the sandbox', () =>
  withSandbox(async (sandbox) => {
    const path = '/files?path=/etc/hostname'
    assert.equal((await byHeader(sandbox, 49983, { path })).status, 401)
    assert.equal((await byHeader(sandbox, 49983, { path, headers: { 'X-Access-Token': 'guess' } })).status, 401)
    const start = { path: '/process.Process/List', method: 'POST', body: '{}', headers: { 'Content-Type': 'application/json' } }
    assert.equal((await byHeader(sandbox, 49983, start)).status, 401)
  }))

const seenInside = `
import http.server, json
class Seen(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps({k.lower(): v for k, v in self.headers.items()}).encode())
http.server.ThreadingHTTPServer(('127.0.0.1', 8000), Seen).serve_forever()
`

test('a sandbox closed to public traffic wants its token at ports', () =>
  withSandbox({ network: { allowPublicTraffic: false, maskRequestHost: 'inside.test:${PORT}' } }, async (sandbox) => {
    const token = sandbox.trafficAccessToken
    assert.ok(token, 'no trafficAccessToken')
    await sandbox.files.write('/tmp/seen.py', seenInside)
    await sandbox.commands.run('exec python3 /tmp/seen.py', { background: true, timeoutMs: 0 })
    const withToken = () => byHeader(sandbox, 8000, { headers: { 'e2b-traffic-access-token': token } })
    await eventually('the server answers', async () => (await withToken()).status === 200)
    assert.equal((await byHeader(sandbox, 8000)).status, 403)
    assert.equal((await byHost(sandbox.getHost(8000))).status, 403)
    assert.equal((await byHost(sandbox.getHost(8000), { headers: { 'e2b-traffic-access-token': 'guess' } })).status, 403)
    const seen = JSON.parse((await withToken()).body)
    assert.equal(seen.host, 'inside.test:8000')
    assert.equal(seen['e2b-traffic-access-token'], undefined)
    assert.equal(await sandbox.isRunning(), true)
    const again = await Sandbox.connect(sandbox.sandboxId)
    assert.equal(again.trafficAccessToken, token)
  }))

test('errors are JSON for programs and a page for browsers', () =>
  withSandbox(async (sandbox) => {
    const program = await byHeader(sandbox, 8123)
    const { message, ...rest } = JSON.parse(program.body)
    assert.deepEqual(rest, { sandboxId: sandbox.sandboxId, port: 8123, code: 502 })
    assert.match(message, /8123/)
    const browser = await byHost(sandbox.getHost(8123), { headers: { Accept: 'text/html,application/xhtml+xml,*/*;q=0.8' } })
    assert.equal(browser.status, 502)
    assert.match(browser.headers['content-type'], /^text\/html/)
    assert.match(browser.body, /start a server on port 8123/)
  }))
