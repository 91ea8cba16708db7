// Handles of commands and the finer points of processes: who gets which output,
// in what order, what ends when, and what a program finds around it.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Sandbox, eventually, sdk, slow, sleep, withSandbox } from './lib.mjs'

const running = async (commands, pid) => (await commands.list()).some((p) => p.pid === pid)

test('a handle tells pid, output, exit code and error as they come', () =>
  withSandbox(async ({ commands }) => {
    const handle = await commands.run('echo out; echo err >&2; read x; exit 6', { background: true, stdin: true })
    await eventually('both outputs', () => handle.stdout === 'out\n' && handle.stderr === 'err\n')
    assert.equal(handle.exitCode, undefined)
    assert.equal(handle.error, undefined)
    assert.ok(Number.isInteger(handle.pid) && handle.pid > 1)
    await handle.sendStdin('\n')
    await assert.rejects(handle.wait(), (err) => err.exitCode === 6 && typeof err.error === 'string' && err.error.includes('6'))
    assert.equal(handle.exitCode, 6)
    assert.match(handle.error, /6/)
  }))

test('the pid of a handle is that of the shell inside', () =>
  withSandbox(async ({ commands }) => {
    const handle = await commands.run('echo $$; sleep 30', { background: true })
    await eventually('the shell says its pid', () => handle.stdout !== '')
    assert.equal(Number(handle.stdout), handle.pid)
  }))

test('waiting twice, and after the end, gives the same', () =>
  withSandbox(async ({ commands }) => {
    const handle = await commands.run('echo once', { background: true })
    const [first, second] = await Promise.all([handle.wait(), handle.wait()])
    assert.deepEqual(first, second)
    assert.equal((await handle.wait()).stdout, 'once\n')
  }))

test('callbacks of a handle are called in order, each piece once', () =>
  withSandbox(async ({ commands }) => {
    const seen = []
    const handle = await commands.run('for i in $(seq 300); do echo out$i; echo err$i >&2; done', {
      background: true,
      onStdout: async (data) => void seen.push(['out', data]),
      onStderr: async (data) => void seen.push(['err', data]),
    })
    await handle.wait()
    const joined = (kind) => seen.filter(([k]) => k === kind).map(([, data]) => data).join('')
    assert.equal(joined('out'), handle.stdout)
    assert.equal(joined('err'), handle.stderr)
    assert.equal(handle.stdout, Array.from({ length: 300 }, (_, i) => `out${i + 1}\n`).join(''))
  }))

test('after disconnect nothing is told any more', () =>
  withSandbox(async ({ commands }) => {
    let told = ''
    const handle = await commands.run('while :; do echo tick; sleep 0.05; done', { background: true, onStdout: (data) => void (told += data) })
    await eventually('it ticks', () => told.includes('tick'))
    await handle.disconnect()
    const before = told
    await sleep(300)
    assert.equal(told, before)
    assert.equal(await running(commands, handle.pid), true)
    assert.equal(await handle.kill(), true)
    await eventually('the process ends', async () => !(await running(commands, handle.pid)))
    assert.equal(await handle.kill(), false)
  }))

test('kill ends the children too', () =>
  withSandbox(async ({ commands }) => {
    const handle = await commands.run('sleep 4712 & (sleep 4712; true) & wait', { background: true })
    const count = async () => Number((await commands.run('pgrep -fxc "sleep 4712" || true')).stdout)
    await eventually('they run', async () => (await count()) === 2)
    await handle.kill()
    await eventually('none is left', async () => (await count()) === 0)
  }))

test('a timeout ends the children too', () =>
  withSandbox(async ({ commands }) => {
    await assert.rejects(commands.run('sleep 4713 & sleep 4713', { timeoutMs: 800 }), sdk.TimeoutError)
    await eventually('none is left', async () => (await commands.run('pgrep -fxc "sleep 4713" || true')).stdout === '0\n')
  }))

test('the signal that ended a program is told', () =>
  withSandbox(async ({ commands }) => {
    const handle = await commands.run('sleep 60', { background: true })
    await handle.kill()
    await assert.rejects(handle.wait(), (err) => {
      assert.ok(err instanceof sdk.CommandExitError)
      assert.notEqual(err.exitCode, 0)
      assert.match(err.error, /kill/i)
      return true
    })
  }))

test('a client that joins late sees what follows and the end', () =>
  withSandbox(async ({ commands }) => {
    const handle = await commands.run('echo early; read x; echo late; exit 2', { background: true, stdin: true })
    await eventually('the first line', () => handle.stdout === 'early\n')
    const joined = await commands.connect(handle.pid)
    await joined.sendStdin('\n')
    await assert.rejects(joined.wait(), (err) => err.exitCode === 2 && err.stdout === 'late\n')
    await assert.rejects(handle.wait(), (err) => err.stdout === 'early\nlate\n')
  }))

test('five clients of one process all get all of it', () =>
  withSandbox(async (sandbox) => {
    const handle = await sandbox.commands.run('read x; seq 1 20000', { background: true, stdin: true })
    const others = await Promise.all([1, 2, 3, 4].map(() => sandbox.commands.connect(handle.pid)))
    await handle.sendStdin('\n')
    const results = await Promise.all([handle, ...others].map((h) => h.wait()))
    for (const { stdout } of results) assert.equal(stdout.split('\n').length, 20_001)
  }))

test('a client that listens slowly loses nothing and holds nobody up', () =>
  withSandbox(async ({ commands }) => {
    const handle = await commands.run('read x; seq 1 60000', { background: true, stdin: true })
    let pieces = 0
    const lazy = await commands.connect(handle.pid, { onStdout: () => (pieces++ < 5 ? sleep(200) : undefined) })
    await handle.sendStdin('\n')
    const [quick, late] = await Promise.all([handle.wait(), lazy.wait()])
    assert.equal(quick.stdout.length, 348_894)
    assert.equal(late.stdout, quick.stdout)
  }))

test('error output alone, and both at once, are kept apart', () =>
  withSandbox(async ({ commands }) => {
    const { stdout, stderr } = await commands.run('seq 1 30000 >&2 & seq 1 30000; wait')
    assert.equal(stdout, stderr)
    assert.equal(stdout.split('\n').length, 30_001)
  }))

test('letters cut in two stay whole in every callback', () =>
  withSandbox(async ({ commands }) => {
    const pieces = []
    const text = 'ä漢🚀'.repeat(20_000)
    await commands.run(`python3 -c "import sys,os; d=('ä漢🚀'*20000).encode(); [os.write(1,d[i:i+997]) for i in range(0,len(d),997)]"`, { onStdout: (data) => void pieces.push(data) })
    assert.equal(pieces.join(''), text)
    assert.ok(pieces.every((piece) => !piece.includes('\ufffd')))
  }))

test('bytes that are no text become replacement characters, and the rest stays', () =>
  withSandbox(async ({ commands }) => {
    assert.equal((await commands.run(`printf 'a\\xff\\xfeb\\xc3'`)).stdout, 'a\ufffd\ufffdb\ufffd')
  }))

test('one very long line arrives', () =>
  withSandbox(async ({ commands }) => {
    assert.equal((await commands.run('head -c 5000000 /dev/zero | tr "\\0" x')).stdout.length, 5_000_000)
  }))

test('output without a newline at its end is complete', () =>
  withSandbox(async ({ commands }) => {
    assert.equal((await commands.run('printf "no newline"')).stdout, 'no newline')
    assert.deepEqual(await commands.run('true').then(({ stdout, stderr, exitCode }) => [stdout, stderr, exitCode]), ['', '', 0])
  }))

test('every exit code is told', () =>
  withSandbox(async ({ commands }) => {
    for (const code of [1, 2, 100, 126, 254, 255]) {
      await assert.rejects(commands.run(`exit ${code}`), (err) => err.exitCode === code)
    }
  }))

test('quotes, dollars, newlines and emoji in a command mean what bash means', () =>
  withSandbox(async ({ commands }) => {
    const { stdout } = await commands.run(`A='it is'; printf '%s|' "$A 'x'" '$A' "ü 🚀" "two\nlines"; echo {1..3} $((6*7)) \`echo sub\``)
    assert.equal(stdout, `it is 'x'|$A|ü 🚀|two\nlines|1 2 3 42 sub\n`)
  }))

test('a long command is taken whole', () =>
  withSandbox(async ({ commands }) => {
    const long = 'x'.repeat(100_000)
    assert.equal((await commands.run(`echo ${long} | wc -c`)).stdout.trim(), '100001')
    await assert.rejects(commands.run(`echo ${'x'.repeat(200_000)}`), sdk.SandboxError)
  }))

test('a login shell reads the profile', () =>
  withSandbox(async ({ commands, files }) => {
    await files.write('/home/user/.profile', 'export FROM_PROFILE=read\n')
    assert.equal((await commands.run('echo $FROM_PROFILE; shopt -q login_shell && echo login')).stdout, 'read\nlogin\n')
  }))

test('a program finds the usual variables', () =>
  withSandbox(async ({ commands }) => {
    const { stdout } = await commands.run('echo "$USER $LOGNAME $HOME"; echo "$PATH"')
    assert.match(stdout, /^user user \/home\/user\n/)
    for (const dir of ['/usr/local/bin', '/usr/bin', '/bin']) assert.ok(stdout.split('\n')[1].split(':').includes(dir), stdout)
    const root = await commands.run('echo "$USER $LOGNAME $HOME"; echo "$PATH"', { user: 'root' })
    assert.match(root.stdout, /^root root \/root\n/)
    assert.ok(root.stdout.split('\n')[1].split(':').includes('/usr/sbin'), root.stdout)
  }))

test('a user added later can run commands, with its groups', () =>
  withSandbox(async ({ commands, files }) => {
    await commands.run('groupadd crew && useradd -m -s /bin/bash -G crew bob', { user: 'root' })
    const { stdout } = await commands.run('whoami; pwd; id -Gn', { user: 'bob', cwd: '/home/bob' })
    assert.equal(stdout, 'bob\n/home/bob\nbob crew\n')
    await files.write('letter', 'x', { user: 'bob', cwd: '/home/bob' })
    assert.deepEqual(await files.getInfo('/home/bob/letter').then((i) => [i.owner, i.group]), ['bob', 'bob'])
  }))

test('envs hold anything: empty, quotes, newlines, equals signs', () =>
  withSandbox(async ({ commands }) => {
    const envs = { EMPTY: '', QUOTES: `a'b"c`, LINES: 'one\ntwo', EQUALS: 'a=b=c', WIDE: '漢字 🚀', lower_1: '$HOME' }
    const { stdout } = await commands.run('printf "%s\\0" "${EMPTY-unset}" "$QUOTES" "$LINES" "$EQUALS" "$WIDE" "$lower_1"', { envs })
    assert.deepEqual(stdout.split('\0').slice(0, -1), Object.values(envs))
  }))

test('a relative directory belongs to the home directory', () =>
  withSandbox(async ({ commands }) => {
    await commands.run('mkdir -p in/side')
    assert.equal((await commands.run('pwd', { cwd: 'in/side' })).stdout, '/home/user/in/side\n')
    assert.equal((await commands.run('pwd', { cwd: '/tmp', user: 'root' })).stdout, '/tmp\n')
  }))

test('a directory that does not exist is named in the error', () =>
  withSandbox(({ commands }) =>
    assert.rejects(commands.run('pwd', { cwd: '/no/such/place' }), (err) => err instanceof sdk.InvalidArgumentError && err.message.includes('/no/such/place'))))

test('stdin of a command that has ended is not found', () =>
  withSandbox(async ({ commands }) => {
    const handle = await commands.run('true', { background: true, stdin: true })
    await handle.wait()
    await eventually('its stdin is refused', () => commands.sendStdin(handle.pid, 'x').then(() => false, (err) => err instanceof sdk.NotFoundError))
    await assert.rejects(commands.closeStdin(handle.pid), sdk.NotFoundError)
  }))

test('stdin of a command started without it is refused', () =>
  withSandbox(async ({ commands }) => {
    const handle = await commands.run('sleep 30', { background: true })
    await assert.rejects(commands.sendStdin(handle.pid, 'x'), sdk.SandboxError)
    await handle.kill()
  }))

test('closing stdin twice harms nothing', () =>
  withSandbox(async ({ commands }) => {
    const handle = await commands.run('cat; sleep 1; echo end', { background: true, stdin: true })
    await handle.sendStdin('all\n')
    await handle.closeStdin()
    await handle.closeStdin().catch((err) => assert.ok(err instanceof sdk.SandboxError))
    assert.equal((await handle.wait()).stdout, 'all\nend\n')
  }))

test('binary goes through stdin unchanged', () =>
  withSandbox(async ({ commands }) => {
    const handle = await commands.run('od -An -tu1 -v -w16', { background: true, stdin: true })
    await handle.sendStdin(new Uint8Array(Array.from({ length: 256 }, (_, i) => i)))
    await handle.closeStdin()
    const { stdout } = await handle.wait()
    assert.deepEqual(stdout.trim().split(/\s+/).map(Number), Array.from({ length: 256 }, (_, i) => i))
  }))

test('stdin stays open until it is closed', () =>
  withSandbox(async ({ commands }) => {
    const handle = await commands.run('while read -r line; do echo "got $line"; done; echo over', { background: true, stdin: true })
    for (const word of ['a', 'b', 'c']) {
      await handle.sendStdin(`${word}\n`)
      await eventually(`the answer to ${word}`, () => handle.stdout.endsWith(`got ${word}\n`))
    }
    await handle.closeStdin()
    assert.match((await handle.wait()).stdout, /over\n$/)
  }))

test('what a command leaves in the background lives on', () =>
  withSandbox(async ({ commands, files }) => {
    await commands.run('(sleep 0.7; echo yes > /tmp/later) >/dev/null 2>&1 &')
    await eventually('it went on', () => files.exists('/tmp/later'))
  }))

test('list tells commands of every client, and no others', () =>
  withSandbox(async (first) => {
    const second = await Sandbox.connect(first.sandboxId)
    const made = await Promise.all([first, second].map((s, i) => s.commands.run(`sleep 60; echo ${i}`, { background: true, user: i ? 'root' : 'user' })))
    assert.deepEqual((await first.commands.list()).map((p) => p.pid).sort(), made.map((h) => h.pid).sort())
  }))

test('a signal handler inside sees TERM from another command', () =>
  withSandbox(async ({ commands }) => {
    const handle = await commands.run(`trap 'echo caught; exit 4' TERM; echo ready; while :; do sleep 0.1; done`, { background: true })
    await eventually('it is ready', () => handle.stdout === 'ready\n')
    await commands.run(`kill -TERM ${handle.pid}`)
    await assert.rejects(handle.wait(), (err) => err.exitCode === 4 && err.stdout === 'ready\ncaught\n')
  }))

test('forty background commands run at once', () =>
  withSandbox(async ({ commands }) => {
    const handles = await Promise.all(Array.from({ length: 40 }, (_, i) => commands.run(`read x; echo ${i}:$x`, { background: true, stdin: true })))
    assert.equal((await commands.list()).length, 40)
    await Promise.all(handles.map((h, i) => h.sendStdin(`${i * 2}\n`)))
    const results = await Promise.all(handles.map((h) => h.wait()))
    assert.deepEqual(results.map((r) => r.stdout), handles.map((_, i) => `${i}:${i * 2}\n`))
  }))

test('requestTimeoutMs bounds a request, not the command', () =>
  withSandbox(async ({ commands }) => {
    assert.equal((await commands.run('sleep 1.5; echo done', { requestTimeoutMs: 1_000 * slow })).stdout, 'done\n')
  }))

test('killing the sandbox tells a waiting client what happened', () =>
  withSandbox(async (sandbox) => {
    const handle = await sandbox.commands.run('sleep 60', { background: true })
    const waiting = assert.rejects(handle.wait(), (err) => err instanceof sdk.TimeoutError && /killed or reached its end of life/.test(err.message))
    await sandbox.kill()
    await waiting
  }))
