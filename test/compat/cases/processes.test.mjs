// Commands in the background: handles, stdin, list, kill, connecting to a
// process of another client, and clients that go away.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Sandbox, eventually, sdk, slow, withSandbox } from './lib.mjs'

const running = async (commands, pid) => (await commands.list()).some((p) => p.pid === pid)

test('a background command returns a handle at once and can be waited for', () =>
  withSandbox(async ({ commands }) => {
    const start = Date.now()
    const handle = await commands.run('echo begin; sleep 2; echo end', { background: true })
    assert.ok(Date.now() - start < 1_800 * slow, 'the call waited for the command')
    assert.ok(handle.pid > 0)
    assert.equal(handle.exitCode, undefined)
    const result = await handle.wait()
    assert.equal(result.stdout, 'begin\nend\n')
    assert.equal(result.exitCode, 0)
    assert.equal(handle.exitCode, 0)
    assert.equal(handle.stdout, 'begin\nend\n')
  }))

test('waiting for a failing background command throws', () =>
  withSandbox(async ({ commands }) => {
    const handle = await commands.run('echo oops >&2; exit 3', { background: true })
    await assert.rejects(handle.wait(), (err) => err instanceof sdk.CommandExitError && err.exitCode === 3 && err.stderr === 'oops\n')
  }))

test('stdin can be written and closed', () =>
  withSandbox(async ({ commands }) => {
    const handle = await commands.run('cat', { background: true, stdin: true })
    await commands.sendStdin(handle.pid, 'one\n')
    await eventually('the line comes back', () => handle.stdout === 'one\n')
    await handle.sendStdin(new TextEncoder().encode('zwei ü\n'))
    await handle.closeStdin()
    assert.equal((await handle.wait()).stdout, 'one\nzwei ü\n')
  }))

test('a program can talk with its client', () =>
  withSandbox(async ({ commands }) => {
    const handle = await commands.run('read -r name; echo "hello $name"; read -r x; exit "$x"', { background: true, stdin: true })
    await handle.sendStdin('world\n')
    await eventually('the answer', () => handle.stdout === 'hello world\n')
    await handle.sendStdin('4\n')
    await assert.rejects(handle.wait(), (err) => err.exitCode === 4)
  }))

test('a large stdin arrives complete', () =>
  withSandbox(async ({ commands }) => {
    const handle = await commands.run('wc -c', { background: true, stdin: true })
    for (let i = 0; i < 8; i++) await handle.sendStdin('x'.repeat(64 * 1024))
    await handle.closeStdin()
    assert.equal((await handle.wait()).stdout.trim(), String(8 * 64 * 1024))
  }))

test('list shows what runs and how it was started', () =>
  withSandbox(async ({ commands }) => {
    const handle = await commands.run('sleep 60', { background: true, cwd: '/tmp', envs: { MARK: 'seen' } })
    const entry = (await commands.list()).find((p) => p.pid === handle.pid)
    assert.ok(entry, 'the process is not listed')
    assert.equal(entry.cmd, '/bin/bash')
    assert.deepEqual(entry.args, ['-l', '-c', 'sleep 60'])
    assert.equal(entry.cwd, '/tmp')
    assert.equal(entry.envs.MARK, 'seen')
    await handle.kill()
    await eventually('the process leaves the list', async () => !(await running(commands, handle.pid)))
  }))

test('kill ends a process and says whether there was one', () =>
  withSandbox(async ({ commands }) => {
    const handle = await commands.run('sleep 60', { background: true })
    assert.equal(await commands.kill(handle.pid), true)
    await assert.rejects(handle.wait(), sdk.CommandExitError)
    await eventually('a second kill finds nothing', async () => !(await commands.kill(handle.pid)))
    assert.equal(await commands.kill(999_999), false)
  }))

test('another client connects to a running process and sees the rest', () =>
  withSandbox(async (first) => {
    const handle = await first.commands.run('for i in 1 2 3 4 5 6; do echo tick$i; sleep 0.5; done; exit 5', { background: true })
    const second = await Sandbox.connect(first.sandboxId)
    const heard = []
    const other = await second.commands.connect(handle.pid, { onStdout: (data) => void heard.push(data) })
    assert.equal(other.pid, handle.pid)
    await assert.rejects(other.wait(), (err) => err.exitCode === 5 && err.stdout.endsWith('tick6\n'))
    assert.ok(heard.join('').includes('tick6\n'))
    await assert.rejects(handle.wait(), (err) => err.stdout === 'tick1\ntick2\ntick3\ntick4\ntick5\ntick6\n')
  }))

test('another client can write to a process and close its stdin', () =>
  withSandbox(async (first) => {
    const handle = await first.commands.run('cat', { background: true, stdin: true })
    const second = await Sandbox.connect(first.sandboxId)
    await second.commands.sendStdin(handle.pid, 'from afar\n')
    await second.commands.closeStdin(handle.pid)
    assert.equal((await handle.wait()).stdout, 'from afar\n')
  }))

test('disconnecting does not end the process', () =>
  withSandbox(async ({ commands, files }) => {
    const handle = await commands.run('sleep 1.5; echo survived > /tmp/proof; sleep 60', { background: true })
    await handle.disconnect()
    assert.equal(await running(commands, handle.pid), true)
    await eventually('it goes on working', () => files.exists('/tmp/proof'))
    const again = await commands.connect(handle.pid)
    assert.equal(await again.kill(), true)
    await assert.rejects(again.wait(), sdk.CommandExitError)
  }))

test('connecting to a process that does not exist fails', () =>
  withSandbox(({ commands }) => assert.rejects(commands.connect(999_999), sdk.NotFoundError)))

test('writing to a process that does not exist fails', () =>
  withSandbox(({ commands }) => assert.rejects(commands.sendStdin(999_999, 'x'), sdk.NotFoundError)))

test('killing the sandbox ends a waiting client with a clear error', () =>
  withSandbox(async (sandbox) => {
    const handle = await sandbox.commands.run('sleep 60', { background: true })
    const waiting = assert.rejects(handle.wait(), sdk.SandboxError)
    await sandbox.kill()
    await waiting
  }))

test('orphans are reaped', () =>
  withSandbox(async ({ commands }) => {
    await commands.run('for i in $(seq 20); do (sleep 0.1 &) ; done')
    await eventually('no zombie stays', async () => (await commands.run(`ps -eo stat= | grep -c ^Z || true`)).stdout === '0\n')
  }))
