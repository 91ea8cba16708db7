// What a sandbox object offers beside its files, commands and terminals.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Sandbox, allPages, sdk, sleep, unique, withSandbox } from './lib.mjs'

test('connect on the object itself prolongs and returns it', () =>
  withSandbox({ timeoutMs: 60_000 }, async (sandbox) => {
    assert.equal(await sandbox.connect({ timeoutMs: 600_000 }), sandbox)
    assert.ok((await sandbox.getInfo()).endAt.getTime() > Date.now() + 500_000)
    assert.equal((await sandbox.commands.run('echo same')).stdout, 'same\n')
  }))

test('connect without a timeout does not shorten the life', () =>
  withSandbox({ timeoutMs: 3_600_000 }, async (sandbox) => {
    await sandbox.connect()
    await Sandbox.connect(sandbox.sandboxId)
    assert.ok((await sandbox.getInfo()).endAt.getTime() > Date.now() + 3_000_000)
  }))

test('getFullInfo tells what getInfo tells', () =>
  withSandbox({ metadata: { a: 'b' } }, async (sandbox) => {
    assert.deepEqual(await Sandbox.getFullInfo(sandbox.sandboxId), await sandbox.getInfo())
  }))

test('getMcpUrl names the port of the gateway', () =>
  withSandbox((sandbox) => {
    assert.equal(sandbox.getMcpUrl(), `https://${sandbox.getHost(50005)}/mcp`)
  }))

test('getMcpToken reads what the gateway left for root', () =>
  withSandbox(async (sandbox) => {
    await sandbox.commands.run('mkdir -p /etc/mcp-gateway; umask 077; printf secret-token > /etc/mcp-gateway/.token', { user: 'root' })
    assert.equal(await sandbox.getMcpToken(), 'secret-token')
  }))

test('without a gateway getMcpToken throws FileNotFoundError', () =>
  withSandbox((sandbox) => assert.rejects(sandbox.getMcpToken(), sdk.FileNotFoundError)))

test('a template without a gateway says so when one is asked for', async () => {
  const metadata = { run: unique() }
  await assert.rejects(Sandbox.create('base', { mcp: {}, metadata, timeoutMs: 60_000 }), (err) => /mcp/i.test(err.message))
  assert.deepEqual(await allPages(Sandbox.list({ query: { metadata } })), [])
})

test('the E2B client has the same classes', { skip: sdk.E2B ? false : 'this version has no E2B class' }, async () => {
  const e2b = new sdk.E2B({ apiKey: process.env.E2B_API_KEY })
  const sandbox = await e2b.Sandbox.create({ timeoutMs: 60_000 })
  try {
    assert.equal((await sandbox.commands.run('echo hi')).stdout, 'hi\n')
  } finally {
    await sandbox.kill()
  }
})

// What later versions bring is refused in words that name it, and changes nothing.
const later = {
  pause: [/paus/i, (s) => s.pause()],
  betaPause: [/paus/i, (s) => s.betaPause()],
  'pause without memory': [/paus/i, (s) => s.pause({ keepMemory: false })],
  fork: [/fork/i, (s) => s.fork()],
  createSnapshot: [/snapshot/i, (s) => s.createSnapshot()],
  listSnapshots: [/snapshot/i, (s) => s.listSnapshots().nextItems()],
  'Sandbox.deleteSnapshot': [/snapshot/i, () => Sandbox.deleteSnapshot('snap')],
  updateNetwork: [/network/i, (s) => s.updateNetwork({ denyOut: ['0.0.0.0/0'] })],
  'create with a volume': [/volume/i, () => Sandbox.create({ volumeMounts: { '/mnt': 'vol' } })],
  'create that pauses at its end': [/paus|lifecycle/i, () => Sandbox.create({ lifecycle: { onTimeout: 'pause' } })],
  'create without internet': [/internet/i, () => Sandbox.create({ allowInternetAccess: false })],
  'create with rules for outgoing traffic': [/network|rules/i, () => Sandbox.create({ network: { rules: { 'example.org': [{ transform: { headers: { a: 'b' } } }] } } })],
}

test('what a later version brings is refused by name', async (t) => {
  await withSandbox(async (sandbox) => {
    for (const [name, [words, attempt]] of Object.entries(later)) {
      await t.test(name, async () => {
        await assert.rejects(async () => {
          const made = await attempt(sandbox)
          if (made instanceof Sandbox) await made.kill()
          if (Array.isArray(made)) for (const one of made) if (one instanceof Error) throw one
        }, (err) => {
          assert.ok(!(err instanceof TypeError), err.stack)
          assert.match(err.message, words)
          return true
        })
      })
    }
    assert.equal((await sandbox.getInfo()).state, 'running')
    assert.equal((await sandbox.commands.run('echo still here')).stdout, 'still here\n')
  })
})

test('isRunning follows the sandbox', async () => {
  const sandbox = await Sandbox.create({ timeoutMs: 60_000 })
  const other = await Sandbox.connect(sandbox.sandboxId)
  assert.deepEqual([await sandbox.isRunning(), await other.isRunning()], [true, true])
  await other.kill()
  assert.deepEqual([await sandbox.isRunning(), await other.isRunning()], [false, false])
})

test('killing a sandbox in the middle of a command, a read and a watch tells each', async () => {
  const sandbox = await Sandbox.create({ timeoutMs: 60_000 })
  const ends = (promise) => assert.rejects(promise, sdk.TimeoutError)
  const command = sandbox.commands.run('sleep 60')
  const handle = await sandbox.commands.run('sleep 60', { background: true })
  const both = Promise.all([ends(command), ends(handle.wait())])
  await sleep(200)
  await sandbox.kill()
  await both
  await ends(sandbox.commands.list())
})
