// A browser as a person has it: Chromium, which trusts the server's CA through
// its certificate store and ignores no error, opens what a sandbox serves.
// Run by browser_test.go, which says in SANDLOT_BROWSER where Chromium is and in
// HOME which store it reads.
import assert from 'node:assert/strict'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { Sandbox } from 'e2b'
import { chromium } from 'playwright-core'

const seconds = 1_000
const start = (home) => chromium.launch({
  executablePath: process.env.SANDLOT_BROWSER,
  args: ['--no-sandbox', '--disable-dev-shm-usage'], // it runs as root, in whatever the test runs in
  env: { HOME: home, PATH: process.env.PATH },
  timeout: 60 * seconds,
})
const browser = await start(process.env.HOME)
const sandbox = await Sandbox.create({ timeoutMs: 300 * seconds })
const host = sandbox.getHost(8000)

test.before(async () => {
  await sandbox.files.write('/tmp/program.py', await readFile(new URL('program.py', import.meta.url), 'utf8'))
  await sandbox.commands.run('exec python3 /tmp/program.py 8000', { background: true, timeoutMs: 0 })
  await sandbox.commands.run('until curl -so /dev/null http://127.0.0.1:8000/; do sleep 0.1; done', { timeoutMs: 30 * seconds })
})
test.after(async () => {
  await browser.close()
  await sandbox.kill()
})

/** A page of a profile of its own. */
async function page(t) {
  const context = await browser.newContext({ ignoreHTTPSErrors: false })
  t.after(() => context.close())
  const opened = await context.newPage()
  opened.setDefaultTimeout(30 * seconds)
  return opened
}

test('a page served in a sandbox opens over trusted TLS and HTTP/2', async (t) => {
  const tab = await page(t)
  const reply = await tab.goto(`https://${host}/`)
  assert.equal(reply.status(), 200)
  assert.equal(await tab.title(), 'Inside')
  assert.equal(await tab.evaluate(() => window.isSecureContext), true)
  assert.equal(await tab.evaluate(() => performance.getEntriesByType('navigation')[0].nextHopProtocol), 'h2')
  const { protocol, issuer } = await reply.securityDetails()
  assert.match(protocol, /^TLS 1\.3$/)
  assert.match(issuer, /sandlot/i)
})

test('a page loads its parts, posts and keeps a cookie', async (t) => {
  const tab = await page(t)
  await tab.goto(`https://${host}/`)
  assert.equal(await tab.evaluate(() => window.loaded), 'by script')
  assert.equal(await tab.evaluate(() => fetch('/echo', { method: 'POST', body: 'über' }).then((r) => r.text())), 'über')
  const [cookie] = await tab.context().cookies()
  assert.deepEqual([cookie.name, cookie.value, cookie.secure, cookie.httpOnly], ['seen', 'yes', true, true])
  assert.equal(await tab.evaluate(() => fetch('/cookie').then((r) => r.text())), 'seen=yes')
})

test('a cookie stays with its sandbox', async (t) => {
  const other = await Sandbox.create({ timeoutMs: 60 * seconds })
  t.after(() => other.kill())
  const tab = await page(t)
  await tab.goto(`https://${host}/`)
  assert.deepEqual(await tab.context().cookies(`https://${other.getHost(8000)}/`), [])
})

test('a WebSocket echoes', async (t) => {
  const tab = await page(t)
  await tab.goto(`https://${host}/`)
  const heard = await tab.evaluate(() => new Promise((resolve, reject) => {
    const socket = new WebSocket(`wss://${location.host}/socket`)
    const said = ['hello', 'ü 🚀', 'x'.repeat(70_000)]
    const back = []
    socket.onopen = () => said.forEach((text) => socket.send(text))
    socket.onerror = () => reject(new Error('the socket failed'))
    socket.onmessage = ({ data }) => back.push(data) === said.length && resolve(back.every((text, i) => text === said[i]))
  }))
  assert.equal(heard, true)
})

test('server-sent events arrive while the reply goes on', async (t) => {
  const tab = await page(t)
  await tab.goto(`https://${host}/`)
  const events = await tab.evaluate(() => new Promise((resolve, reject) => {
    const seen = []
    const source = new EventSource('/events')
    source.onerror = () => reject(new Error('the stream failed'))
    source.onmessage = ({ data }) => {
      seen.push([data, performance.now()])
      if (seen.length === 3) resolve(seen, source.close())
    }
  }))
  assert.deepEqual(events.map(([data]) => data), ['0', '1', '2'])
  assert.ok(events[2][1] - events[0][1] > 300, JSON.stringify(events))
})

test('a port on which nothing listens is a page that says so', async (t) => {
  const tab = await page(t)
  const reply = await tab.goto(`https://${sandbox.getHost(8123)}/some/where`)
  assert.equal(reply.status(), 502)
  const text = await tab.innerText('body')
  assert.ok(text.includes('8123') && text.includes(sandbox.sandboxId), text)
})

test('a sandbox that is gone is a page that says so', async (t) => {
  const gone = await Sandbox.create({ timeoutMs: 60 * seconds })
  await gone.kill()
  const tab = await page(t)
  const reply = await tab.goto(`https://${gone.getHost(8000)}/`)
  assert.equal(reply.status(), 502)
  assert.ok((await tab.innerText('body')).includes(gone.sandboxId))
})

test('a file is shown by its signed URL', async (t) => {
  await sandbox.files.write('/home/user/report.txt', 'for the browser')
  const signed = new URL(await sandbox.downloadUrl('/home/user/report.txt'))
  const tab = await page(t)
  const reply = await tab.goto(`https://${sandbox.getHost(49983)}${signed.pathname}${signed.search}`)
  assert.equal(await reply.text(), 'for the browser')
})

test('without the CA the same page is refused', async (t) => {
  const home = await mkdtemp(join(tmpdir(), 'browser-'))
  const stranger = await start(home)
  t.after(() => stranger.close().then(() => rm(home, { recursive: true, force: true, maxRetries: 5 })))
  const tab = await stranger.newPage()
  await assert.rejects(tab.goto(`https://${host}/`, { timeout: 30 * seconds }), /ERR_CERT_AUTHORITY_INVALID/)
})
