// Shared by all cases: which SDK is under test, sandboxes that are always
// killed, and small helpers. A case never depends on what another one left.
import { randomBytes } from 'node:crypto'
import http from 'node:http'
import { createRequire } from 'node:module'
import { pathToFileURL } from 'node:url'

if (!process.env.SANDLOT_SDK) {
  throw new Error('set SANDLOT_SDK to the sdk.mjs of the version under test')
}
export const sdk = await import(pathToFileURL(process.env.SANDLOT_SDK).href)
export const { Sandbox } = sdk

// Slow machines (software emulation) stretch every deadline by this factor.
export const slow = Number(process.env.SANDLOT_COMPAT_SLOW ?? 1)

// Enough for a case on a loaded machine, and short enough that a sandbox whose
// case was interrupted does not stay.
const lifetimeMs = 120_000 * slow

/** A value no other case uses, for metadata and names. */
export const unique = () => randomBytes(8).toString('hex')

/** Runs fn with a new sandbox and kills it afterwards, whatever happened. */
export async function withSandbox(...args) {
  const fn = args.pop()
  const opts = { timeoutMs: lifetimeMs, ...args[0] }
  const sandbox = await Sandbox.create(opts)
  try {
    return await fn(sandbox)
  } finally {
    await sandbox.kill()
  }
}

/** Kills sandboxes when a test ends; for cases that need several of them. */
export function killAfter(t, ...sandboxes) {
  t.after(() => Promise.all(sandboxes.map((s) => Sandbox.kill(s.sandboxId))))
}

// The server's own address, where the SDK may know it by name only.
export const server = new URL(process.env.SANDLOT_URL ?? process.env.E2B_SANDBOX_URL)

/** True where the SDK finds sandboxes by name and over TLS, instead of by headers. */
export const byName = !process.env.E2B_SANDBOX_URL

// What browsers do and Node does not: names below localhost mean this machine.
// Where cases run by name the system must know those names, so nothing helps there.
const lookup = (name, { all }, done) => (all ? done(null, [{ address: server.hostname, family: 4 }]) : done(null, server.hostname, 4))

// The HTTP client the SDK itself brings, with TLS that is checked.
const undici = createRequire(process.env.SANDLOT_SDK)('undici')
const connect = byName ? {} : { lookup }
const pages = new undici.Agent({ allowH2: true, connect })
const sockets = new undici.Agent({ allowH2: false, connect }) // as in Node's own WebSocket

/** What fetch of a page on a sandbox's host gives, over TLS and HTTP/2. */
export const fetchHost = (host, path = '/', init = {}) => undici.fetch(`https://${host}${path}`, { dispatcher: pages, ...init })

/** A WebSocket to a sandbox's host, over TLS. */
export const socketTo = (host, path = '/', init = {}) => new undici.WebSocket(`wss://${host}${path}`, { dispatcher: sockets, ...init })

export const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms))

/** Polls until check returns something true; fails after ms, saying what was awaited (or what it returns then). */
export async function eventually(what, check, ms = 10_000) {
  const end = Date.now() + ms * slow
  for (;;) {
    const value = await check()
    if (value) return value
    if (Date.now() > end) throw new Error(`not within ${ms * slow} ms: ${typeof what === 'function' ? what() : what}`)
    await sleep(50)
  }
}

/** The pages of a paginated list, joined. */
export async function allPages(paginator) {
  const items = []
  while (paginator.hasNext) items.push(...(await paginator.nextItems()))
  return items
}

/** One HTTP request to the server under any Host and header; resolves to {status, headers, body}. */
export function request({ path = '/', method = 'GET', headers = {}, body }) {
  const options = { host: server.hostname, port: server.port, path, method, headers, agent: false }
  return new Promise((resolve, reject) => {
    const req = http.request(options, (res) => {
      const chunks = []
      res.on('data', (chunk) => chunks.push(chunk))
      res.on('error', reject)
      res.on('end', () =>
        resolve({ status: res.statusCode, headers: res.headers, body: Buffer.concat(chunks).toString() }))
    })
    req.on('error', reject)
    req.end(body)
  })
}
