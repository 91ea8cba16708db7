// What getMetrics says of a sandbox: its own load, memory and disk.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Sandbox, eventually, sdk, withSandbox } from './lib.mjs'

test('getMetrics measures the sandbox itself', () =>
  withSandbox(async (sandbox) => {
    await sandbox.commands.run('timeout 60 sh -c "while :; do :; done"', { background: true, timeoutMs: 0 })
    await sandbox.commands.run('fallocate -l 300M big')
    const [metric] = await eventually('a measurement that shows the load', async () => {
      const metrics = await sandbox.getMetrics()
      const busy = metrics.filter((m) => m.cpuUsedPct > 10 && m.diskUsed > 300_000_000)
      return busy.length > 0 && busy
    }, 30_000)
    assert.equal(metric.cpuCount, 2)
    assert.ok(metric.cpuUsedPct <= 100 * 2 + 10, String(metric.cpuUsedPct))
    assert.equal(metric.memTotal, 1 << 30)
    assert.ok(metric.memUsed > 1_000_000 && metric.memUsed < metric.memTotal, String(metric.memUsed))
    assert.ok(metric.memCache >= 0)
    assert.equal(metric.diskTotal, 10 * 2 ** 30)
    assert.ok(metric.diskUsed < metric.diskTotal)
    assert.ok(Math.abs(metric.timestamp.getTime() - Date.now()) < 60_000)
    assert.ok((await Sandbox.getMetrics(sandbox.sandboxId)).length > 0)
    assert.deepEqual(await sandbox.getMetrics({ start: new Date(Date.now() - 7_200_000), end: new Date(Date.now() - 3_600_000) }), [])
    const recent = await sandbox.getMetrics({ start: new Date(Date.now() - 60_000), end: new Date(Date.now() + 60_000) })
    assert.ok(recent.length > 0)
    assert.ok(recent.every((m, i) => i === 0 || m.timestamp >= recent[i - 1].timestamp), 'the oldest comes first')
  }))

test('metrics of a sandbox that never was are not found', () =>
  assert.rejects(Sandbox.getMetrics('i0000000000000000000'), sdk.SandboxNotFoundError))
