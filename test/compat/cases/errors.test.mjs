// What goes wrong is reported as the SDK's own error classes, with words that help.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Sandbox, allPages, request, sdk, unique, withSandbox } from './lib.mjs'

const wrongKey = `e2b_${'0'.repeat(40)}`

test('a wrong API key throws AuthenticationError', async () => {
  await assert.rejects(Sandbox.create({ apiKey: wrongKey }), sdk.AuthenticationError)
  await assert.rejects(Sandbox.list({ apiKey: wrongKey }).nextItems(), sdk.AuthenticationError)
  await assert.rejects(Sandbox.kill('i0000000000000000000', { apiKey: wrongKey }), sdk.AuthenticationError)
})

test('a missing API key is refused by the server', async () => {
  const reply = await request({ path: '/v2/sandboxes' })
  assert.equal(reply.status, 401)
  assert.equal(JSON.parse(reply.body).code, 401)
})

test('an unknown template is named in the error', async () => {
  await assert.rejects(Sandbox.create('no-such-template'), (err) => {
    assert.ok(err instanceof sdk.SandboxError || err instanceof sdk.NotFoundError, err.name)
    assert.match(err.message, /no-such-template/)
    return true
  })
})

test('a sandbox that never was', async () => {
  const id = 'i0000000000000000000'
  assert.equal(await Sandbox.kill(id), false)
  await assert.rejects(Sandbox.getInfo(id), sdk.SandboxNotFoundError)
  await assert.rejects(Sandbox.connect(id), sdk.SandboxNotFoundError)
  await assert.rejects(Sandbox.setTimeout(id, 1000), sdk.SandboxNotFoundError)
})

test('an id that cannot be one is not found either', async () => {
  assert.equal(await Sandbox.kill('not an id'), false)
  await assert.rejects(Sandbox.getInfo('../../etc'), sdk.SandboxError)
})

test('a refused create leaves nothing behind', async () => {
  const metadata = { run: unique() }
  await assert.rejects(Sandbox.create('no-such-template', { metadata }))
  await assert.rejects(Sandbox.create({ metadata, timeoutMs: -5_000 }))
  assert.deepEqual(await allPages(Sandbox.list({ query: { metadata } })), [])
})

test('a timeout beyond all limits is refused with a reason', () =>
  assert.rejects(Sandbox.create({ timeoutMs: 1000 * 60 * 60 * 24 * 365 * 100 }), (err) => /timeout/i.test(err.message)))

test('using a killed sandbox throws errors that say so', async () => {
  const sandbox = await Sandbox.create({ timeoutMs: 60_000 })
  await sandbox.kill()
  await assert.rejects(sandbox.commands.run('true'), (err) => err instanceof sdk.SandboxNotFoundError || err instanceof sdk.TimeoutError)
  await assert.rejects(sandbox.files.read('/etc/hostname'), sdk.TimeoutError)
  await assert.rejects(sandbox.files.list('/'), sdk.TimeoutError)
  await assert.rejects(sandbox.files.write('/tmp/x', 'x'), sdk.TimeoutError)
})

test('an aborted request ends at once and harms nothing', () =>
  withSandbox(async ({ commands }) => {
    await assert.rejects(commands.run('sleep 60', { signal: AbortSignal.timeout(300) }))
    assert.equal((await commands.run('echo fine')).stdout, 'fine\n')
  }))

test('an error of the control plane is JSON with the status as its code', async () => {
  const headers = { 'X-API-Key': process.env.E2B_API_KEY, 'Content-Type': 'application/json' }
  for (const [method, path, body, status] of [
    ['GET', '/sandboxes/i0000000000000000000', undefined, 404],
    ['POST', '/v2/sandboxes', '{"templateID":', 400],
    ['POST', '/v2/sandboxes', '{}', 400],
    ['POST', '/v2/sandboxes', '{"templateID":"base","timeout":"soon"}', 400],
    ['GET', '/v2/sandboxes?limit=many', undefined, 400],
    ['GET', '/no/such/path', undefined, 404],
    ['PATCH', '/v2/sandboxes', undefined, 405],
  ]) {
    const reply = await request({ method, path, body, headers })
    assert.equal(reply.status, status, `${method} ${path} ${body ?? ''}: ${reply.body}`)
    const error = JSON.parse(reply.body)
    assert.equal(error.code, status)
    assert.ok(error.message.length > 0)
  }
})

test('health needs no key', async () => {
  const reply = await request({ path: '/health' })
  assert.ok(reply.status === 204 || reply.status === 200)
})
