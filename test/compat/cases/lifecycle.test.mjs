// The life of one sandbox: create, look at it, prolong it, connect, kill.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Sandbox, eventually, killAfter, sdk, slow, unique, withSandbox } from './lib.mjs'

const near = (date, ms, tolerance = 5_000) =>
  assert.ok(Math.abs(date.getTime() - ms) < tolerance * slow, `${date.toISOString()} is not near ${new Date(ms).toISOString()}`)

test('create gives a running sandbox that runs commands', () =>
  withSandbox(async (sandbox) => {
    assert.match(sandbox.sandboxId, /^[a-z0-9]+$/)
    assert.equal(await sandbox.isRunning(), true)
    assert.equal((await sandbox.commands.run('echo ready')).stdout, 'ready\n')
  }))

test('create takes the template by name', async (t) => {
  const sandbox = await Sandbox.create('base', { timeoutMs: 60_000 })
  killAfter(t, sandbox)
  assert.equal(await sandbox.isRunning(), true)
})

test('every sandbox has its own id', async (t) => {
  const made = await Promise.all([1, 2, 3].map(() => Sandbox.create({ timeoutMs: 60_000 })))
  killAfter(t, ...made)
  assert.equal(new Set(made.map((s) => s.sandboxId)).size, 3)
})

test('getInfo describes the sandbox', async () => {
  const metadata = { purpose: 'info', run: unique() }
  const before = Date.now()
  await withSandbox({ metadata, timeoutMs: 90_000 }, async (sandbox) => {
    const info = await sandbox.getInfo()
    assert.equal(info.sandboxId, sandbox.sandboxId)
    assert.ok(info.templateId)
    assert.equal(info.state, 'running')
    assert.deepEqual(info.metadata, metadata)
    near(info.startedAt, before)
    near(info.endAt, before + 90_000)
    assert.equal(info.cpuCount, 2)
    assert.equal(info.memoryMB, 1024)
    assert.match(info.envdVersion, /^\d+\.\d+\.\d+$/)
    assert.deepEqual(await Sandbox.getInfo(sandbox.sandboxId), info)
  })
})

test('a sandbox without metadata reports none', () =>
  withSandbox(async (sandbox) => assert.deepEqual((await sandbox.getInfo()).metadata ?? {}, {})))

test('setTimeout moves the end both ways', () =>
  withSandbox(async (sandbox) => {
    await sandbox.setTimeout(600_000)
    near((await sandbox.getInfo()).endAt, Date.now() + 600_000)
    await Sandbox.setTimeout(sandbox.sandboxId, 30_000)
    near((await sandbox.getInfo()).endAt, Date.now() + 30_000)
  }))

test('a sandbox ends when its time is over', async () => {
  const metadata = { run: unique() }
  const sandbox = await Sandbox.create({ timeoutMs: 2_000, metadata })
  assert.equal(await sandbox.isRunning(), true)
  await eventually('the sandbox ends by itself', async () => !(await sandbox.isRunning()), 6_000)
  assert.deepEqual(await Sandbox.list({ query: { metadata } }).nextItems(), [])
  assert.equal(await Sandbox.kill(sandbox.sandboxId), false)
})

test('a shortened timeout is enforced', async () => {
  const sandbox = await Sandbox.create({ timeoutMs: 60_000 })
  await sandbox.setTimeout(1_000)
  await eventually('the sandbox ends', async () => !(await sandbox.isRunning()), 6_000)
})

test('a prolonged sandbox outlives its first end', () =>
  withSandbox({ timeoutMs: 2_000 }, async (sandbox) => {
    await sandbox.setTimeout(60_000 * slow)
    await new Promise((resolve) => setTimeout(resolve, 3_500))
    assert.equal(await sandbox.isRunning(), true)
  }))

test('kill is true once and false afterwards', async () => {
  const sandbox = await Sandbox.create({ timeoutMs: 60_000 })
  assert.equal(await sandbox.kill(), true)
  assert.equal(await sandbox.kill(), false)
  assert.equal(await Sandbox.kill(sandbox.sandboxId), false)
  assert.equal(await sandbox.isRunning(), false)
})

test('kill from elsewhere needs only the id', async () => {
  const sandbox = await Sandbox.create({ timeoutMs: 60_000 })
  assert.equal(await Sandbox.kill(sandbox.sandboxId), true)
  assert.equal(await sandbox.isRunning(), false)
})

test('connect reaches the same sandbox', () =>
  withSandbox(async (first) => {
    await first.files.write('/tmp/mark', 'left by the first')
    const second = await Sandbox.connect(first.sandboxId)
    assert.equal(second.sandboxId, first.sandboxId)
    assert.equal(await second.files.read('/tmp/mark'), 'left by the first')
    await second.commands.run('echo changed > /tmp/mark')
    assert.equal(await first.files.read('/tmp/mark'), 'changed\n')
  }))

test('connect never shortens the life of a sandbox', () =>
  withSandbox({ timeoutMs: 600_000 }, async (sandbox) => {
    const { endAt } = await sandbox.getInfo()
    await Sandbox.connect(sandbox.sandboxId, { timeoutMs: 10_000 })
    near((await sandbox.getInfo()).endAt, endAt.getTime(), 2_000)
  }))

test('connect can prolong the life of a sandbox', () =>
  withSandbox({ timeoutMs: 60_000 }, async (sandbox) => {
    await Sandbox.connect(sandbox.sandboxId, { timeoutMs: 900_000 })
    near((await sandbox.getInfo()).endAt, Date.now() + 900_000)
  }))

test('a dead sandbox cannot be found any more', async () => {
  const sandbox = await Sandbox.create({ timeoutMs: 60_000 })
  await sandbox.kill()
  await assert.rejects(Sandbox.connect(sandbox.sandboxId), sdk.SandboxNotFoundError)
  await assert.rejects(sandbox.getInfo(), sdk.SandboxNotFoundError)
  await assert.rejects(sandbox.setTimeout(60_000), sdk.SandboxNotFoundError)
})

test('the environment given at creation reaches every command', () =>
  withSandbox({ envs: { GREETING: 'good morning', EMPTY: '', ODD: `a'b"c $HOME` } }, async (sandbox) => {
    const { stdout } = await sandbox.commands.run('printf "%s|%s|%s" "$GREETING" "${EMPTY-unset}" "$ODD"')
    assert.equal(stdout, `good morning||a'b"c $HOME`)
    const asRoot = await sandbox.commands.run('echo $GREETING', { user: 'root' })
    assert.equal(asRoot.stdout, 'good morning\n')
  }))
