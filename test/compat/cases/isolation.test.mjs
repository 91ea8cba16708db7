// Sandboxes do not notice each other, nor the machine they run on.
import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { hostname } from 'node:os'
import { test } from 'node:test'
import { Sandbox, server, withSandbox } from './lib.mjs'

const out = async (sandbox, cmd, opts) => (await sandbox.commands.run(cmd, opts)).stdout.trim()

test('two sandboxes share no files, processes or environment', () =>
  withSandbox({ envs: { WHO: 'a' } }, (a) =>
    withSandbox({ envs: { WHO: 'b' } }, async (b) => {
      await Promise.all([a, b].map(async (s, i) => {
        await s.files.write('/tmp/same-name', `written by ${i}`)
        await s.commands.run(`exec -a only-in-${i} sleep 60`, { background: true })
      }))
      assert.equal(await a.files.read('/tmp/same-name'), 'written by 0')
      assert.equal(await b.files.read('/tmp/same-name'), 'written by 1')
      assert.equal(await out(a, 'echo $WHO'), 'a')
      assert.equal(await out(b, 'echo $WHO'), 'b')
      assert.equal(await out(a, 'pgrep -fc "^only-in-1" || true'), '0')
      assert.equal(await out(b, 'pgrep -fc "^only-in-1"'), '1')
      assert.equal((await b.commands.list()).length, 1)
    })))

test('a broken sandbox does not disturb its neighbour, and a new one is fresh', () =>
  withSandbox(async (neighbour) => {
    await withSandbox(async (broken) => {
      await broken.commands.run('rm -rf /usr/share /opt /home/user/.profile; echo changed > /etc/motd', { user: 'root' })
    })
    assert.equal(await out(neighbour, 'test -d /usr/share && echo whole'), 'whole')
    await withSandbox(async (fresh) => {
      assert.equal(await out(fresh, 'test -d /usr/share && ! grep -q changed /etc/motd && echo whole'), 'whole')
    })
  }))

test('a sandbox has its own processes, host name and mounts', () =>
  withSandbox(async (sandbox) => {
    assert.notEqual(await out(sandbox, 'hostname'), hostname())
    assert.notEqual(await out(sandbox, 'cat /proc/sys/kernel/random/boot_id; readlink /proc/self/ns/pid'), '')
    const processes = Number(await out(sandbox, 'ps -e --no-headers | wc -l'))
    assert.ok(processes < 15, `${processes} processes are visible`)
    assert.equal(await out(sandbox, `test -e ${process.cwd()} || echo hidden`), 'hidden')
  }))

test('root inside is not root outside', () =>
  withSandbox(async (sandbox) => {
    const map = (await out(sandbox, 'cat /proc/self/uid_map', { user: 'root' })).split(/\s+/)
    assert.equal(map[0], '0')
    assert.notEqual(map[1], '0')
    for (const cmd of ['mount -t tmpfs none /sys', 'dmesg', 'echo 1 > /proc/sys/kernel/panic', 'mknod /tmp/sda b 8 0', 'hwclock -w || date -s 2001-01-01']) {
      const result = await sandbox.commands.run(`${cmd} 2>/dev/null; echo $?`, { user: 'root' })
      if (cmd.startsWith('mount')) continue // whether it works inside its own namespace is the sandbox's affair
      assert.notEqual(result.stdout.trim().split('\n').pop(), '0', cmd)
    }
    assert.equal(readFileSync('/proc/sys/kernel/hostname', 'utf8').trim(), hostname())
  }))

test('sandboxes cannot reach each other over the network', () =>
  withSandbox((a) =>
    withSandbox(async (b) => {
      await a.commands.run('exec python3 -m http.server 8000 --bind 0.0.0.0', { background: true, timeoutMs: 0 })
      const addresses = (await out(a, `hostname -I`)).split(/\s+/).filter(Boolean)
      for (const address of addresses.filter((x) => x.includes('.'))) {
        assert.equal(await out(b, `curl -s -o /dev/null -m 2 http://${address}:8000/ && echo reached || echo closed`), 'closed')
      }
    })))

test("the server's own port cannot be reached from inside", () =>
  withSandbox(async (sandbox) => {
    const { port } = server
    const gateways = (await out(sandbox, `ip -4 route show default 2>/dev/null | sed -n 's/.*via \\([0-9.]*\\).*/\\1/p'`)).split('\n').filter(Boolean)
    for (const host of ['127.0.0.1', ...gateways]) {
      assert.equal(await out(sandbox, `curl -s -o /dev/null -m 2 http://${host}:${port}/health && echo reached || echo closed`), 'closed', host)
    }
  }))

test('ten sandboxes are made and used at the same time', async () => {
  await Promise.all(Array.from({ length: 10 }, (_, i) =>
    withSandbox({ metadata: { i: String(i) } }, async (sandbox) => {
      await sandbox.files.write('me', String(i))
      assert.equal(await out(sandbox, 'cat ~/me'), String(i))
      assert.equal((await Sandbox.getInfo(sandbox.sandboxId)).metadata.i, String(i))
    })))
})
