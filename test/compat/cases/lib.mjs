// Shared by all cases: which SDK is under test, sandboxes that are always
// killed, and small helpers. A case never depends on what another one left.
import { randomBytes } from 'node:crypto'
import http from 'node:http'
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

export const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms))

/** Polls until check returns something true; fails after ms. */
export async function eventually(what, check, ms = 10_000) {
  const end = Date.now() + ms * slow
  for (;;) {
    const value = await check()
    if (value) return value
    if (Date.now() > end) throw new Error(`not within ${ms * slow} ms: ${what}`)
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
  const base = new URL(process.env.E2B_SANDBOX_URL)
  const options = { host: base.hostname, port: base.port, path, method, headers, agent: false }
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
