// Terminals: what a person at a keyboard, or a program that plays one, may expect.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Sandbox, eventually, sdk, slow, withSandbox } from './lib.mjs'

const keys = (text) => new TextEncoder().encode(text)

/** A terminal whose output is kept as text, with what cases do to it. */
async function terminal(sandbox, opts = {}) {
  const decoder = new TextDecoder()
  const term = { text: '' }
  // Readline leaves marks of its own between lines, which no case is about.
  const marks = /\x1b\[\?2004[hl]\r?/g
  term.onData = (data) => {
    assert.ok(data instanceof Uint8Array)
    term.text += decoder.decode(data, { stream: true })
  }
  term.handle = await sandbox.pty.create({ cols: 80, rows: 24, onData: term.onData, timeoutMs: 60_000 * slow, ...opts })
  term.pid = term.handle.pid
  term.type = (text) => sandbox.pty.sendInput(term.pid, keys(text))
  let typed = 0 // what was shown before the last line was typed answers nothing
  const plain = () => term.text.slice(typed).replace(marks, '')
  term.sees = (what, ms) => eventually(() => `the terminal shows ${what}; it shows ${JSON.stringify(term.text.slice(-2000))}`,
    () => (what instanceof RegExp ? what.test(plain()) : plain().includes(what)), ms)
  // Quotes keep the typed line from looking like its output.
  term.answers = async (cmd, what) => {
    typed = term.text.length
    await term.type(`${cmd}\n`)
    await term.sees(what)
  }
  return term
}

test('a terminal runs what is typed and shows it', () =>
  withSandbox(async (sandbox) => {
    const term = await terminal(sandbox)
    assert.ok(term.pid > 0)
    await term.type('echo "re""sult"\n')
    await term.sees('result\r\n')
    assert.ok(term.text.includes('echo "re""sult"'), 'the typed line is not echoed')
  }))

test('a terminal is one to the programs in it', () =>
  withSandbox(async (sandbox) => {
    const term = await terminal(sandbox)
    await term.answers('test -t 0 && test -t 1 && test -t 2 && echo "on"e', '\none\r\n')
    await term.answers('echo "<$TERM>" "<$LANG>" "<$LC_ALL>"', '<xterm-256color> <C.UTF-8> <C.UTF-8>')
    await term.answers('tty', /\n\/dev\/pts\/\d+\r\n/)
    await term.answers('echo "flags:"$-', /\nflags:\S*i/)
    await term.answers('shopt -q login_shell && echo "log"in', '\nlogin\r\n')
    await term.answers('echo x > /dev/tty && echo "con"trolled', '\nx\r\ncontrolled\r\n')
  }))

test('a terminal has the size it was made with and follows resize', () =>
  withSandbox(async (sandbox) => {
    const term = await terminal(sandbox, { cols: 93, rows: 31 })
    await term.answers('stty size', '\n31 93\r\n')
    await term.answers(`trap 'echo changed to $(stty size)' WINCH; echo "trap"ped`, '\ntrapped\r\n')
    await sandbox.pty.resize(term.pid, { cols: 140, rows: 50 })
    await term.type('\n') // bash runs traps when a line is read
    await term.sees('changed to 50 140')
    await term.answers('tput cols; tput lines; echo $COLUMNS $LINES', '\n140\r\n50\r\n140 50\r\n')
  }))

test('a program in the foreground is told of a new size', () =>
  withSandbox(async (sandbox) => {
    const term = await terminal(sandbox)
    await sandbox.files.write('/tmp/size.py', `
import os, signal
def told(*_):
    size = os.get_terminal_size()
    os.write(1, f'now {size.columns} by {size.lines}\\n'.encode())
signal.signal(signal.SIGWINCH, told)
print('rea' + 'dy', flush=True)
while True: signal.pause()
`)
    await term.answers('python3 /tmp/size.py', 'ready\r\n')
    await sandbox.pty.resize(term.pid, { cols: 61, rows: 17 })
    await term.sees('now 61 by 17\r\n')
  }))

test('Ctrl-C interrupts the program and not the shell', () =>
  withSandbox(async (sandbox) => {
    const term = await terminal(sandbox)
    await term.answers('echo "go"ing; sleep 1000', '\ngoing\r\n')
    await term.type('\x03')
    await term.answers('echo "status=$?"', 'status=130')
  }))

test('Ctrl-Z stops a job, fg and bg go on with it', () =>
  withSandbox(async (sandbox) => {
    const term = await terminal(sandbox)
    await term.answers('cat > /tmp/typed', 'cat > /tmp/typed\r\n')
    await term.type('one\n')
    await eventually('cat got the line', async () => (await sandbox.files.exists('/tmp/typed')) && (await sandbox.files.read('/tmp/typed')) === 'one\n')
    await term.type('\x1a')
    await term.sees('Stopped')
    await term.answers('jobs', /\[1\]\+\s+Stopped\s+cat > \/tmp\/typed/)
    await term.answers('fg', 'cat > /tmp/typed\r\n')
    await term.type('two\n\x04')
    await term.answers('echo "back"again', '\nbackagain\r\n')
    assert.equal(await sandbox.files.read('/tmp/typed'), 'one\ntwo\n')
    await term.answers('sleep 0.5 & wait %1; echo "wait"ed', '\nwaited\r\n')
    assert.ok(!/no job control|cannot set terminal process group/.test(term.text), term.text)
  }))

test('Ctrl-D ends the shell, and its exit code is the result', () =>
  withSandbox(async (sandbox) => {
    const first = await terminal(sandbox)
    await first.sees(/[$#] /)
    await first.type('\x04')
    assert.equal((await first.handle.wait()).exitCode, 0)
    const second = await terminal(sandbox)
    await second.type('exit 9\n')
    await assert.rejects(second.handle.wait(), (err) => err instanceof sdk.CommandExitError && err.exitCode === 9)
    assert.equal(second.handle.exitCode, 9)
  }))

test('a terminal starts as the user in the home directory, or as told', () =>
  withSandbox({ envs: { FROM: 'sandbox' } }, async (sandbox) => {
    const plain = await terminal(sandbox)
    await plain.answers('echo "$(whoami):$PWD:$HOME:$FROM:"', '\nuser:/home/user:/home/user:sandbox:\r\n')
    const told = await terminal(sandbox, { user: 'root', cwd: '/usr/share', envs: { FROM: 'call', MORE: 'a b' } })
    await told.answers('echo "$(id -u):$PWD:$HOME:$FROM:$MORE:"', '\n0:/usr/share:/root:call:a b:\r\n')
    await assert.rejects(terminal(sandbox, { cwd: '/no/such/place' }), sdk.SandboxError)
    await assert.rejects(terminal(sandbox, { user: 'nobody-knows-me' }), sdk.AuthenticationError)
  }))

test('a terminal can be given another TERM', () =>
  withSandbox(async (sandbox) => {
    const term = await terminal(sandbox, { envs: { TERM: 'vt100' } })
    await term.answers('echo "<$TERM>"', '\n<vt100>\r\n')
  }))

test('kill ends the terminal and what runs in it', () =>
  withSandbox(async (sandbox) => {
    const term = await terminal(sandbox)
    await term.answers('sleep 4711 & echo "start"ed', '\nstarted\r\n')
    const ended = assert.rejects(term.handle.wait(), sdk.CommandExitError)
    assert.equal(await sandbox.pty.kill(term.pid), true)
    await ended
    await eventually('a second kill finds nothing', async () => (await sandbox.pty.kill(term.pid)) === false)
    await eventually('nothing is left', async () => (await sandbox.commands.run('pgrep -fx "sleep 4711" || echo none')).stdout === 'none\n')
    assert.equal(await sandbox.pty.kill(999_999), false)
  }))

test('the handle of a terminal can kill it', () =>
  withSandbox(async (sandbox) => {
    const term = await terminal(sandbox)
    const ended = assert.rejects(term.handle.wait(), sdk.CommandExitError)
    assert.equal(await term.handle.kill(), true)
    await ended
  }))

test('a terminal of another client is joined, and goes on when one leaves', () =>
  withSandbox(async (sandbox) => {
    const first = await terminal(sandbox)
    await first.answers('KEPT=in-the-shell; echo "s"et', '\nset\r\n')
    await first.handle.disconnect()
    const elsewhere = await Sandbox.connect(sandbox.sandboxId)
    let heard = ''
    const joined = await elsewhere.pty.connect(first.pid, { onData: (data) => void (heard += new TextDecoder().decode(data)) })
    assert.equal(joined.pid, first.pid)
    await elsewhere.pty.sendInput(first.pid, keys('echo "<$KEPT>"\n'))
    await eventually('the shell is the same', () => /[\r\n]<in-the-shell>\r\n/.test(heard))
    await elsewhere.pty.sendInput(first.pid, keys('exit 3\n'))
    await assert.rejects(joined.wait(), (err) => err.exitCode === 3)
  }))

test('two clients see the same terminal', () =>
  withSandbox(async (sandbox) => {
    const term = await terminal(sandbox)
    let other = ''
    await sandbox.pty.connect(term.pid, { onData: (data) => void (other += new TextDecoder().decode(data)) })
    await term.answers('echo "for""both"', '\nforboth\r\n')
    await eventually('the other sees it too', () => /[\r\n]forboth\r\n/.test(other))
  }))

test('a terminal is listed among the processes', () =>
  withSandbox(async (sandbox) => {
    const term = await terminal(sandbox)
    const entry = (await sandbox.commands.list()).find((p) => p.pid === term.pid)
    assert.equal(entry?.cmd, '/bin/bash')
    assert.deepEqual(entry.args, ['-i', '-l'])
  }))

test('two hundred thousand lines arrive complete and in order', () =>
  withSandbox(async (sandbox) => {
    const term = await terminal(sandbox)
    await term.answers('stty -opost; seq 1 200000; stty opost; echo "do"ne', /\ndone\r?\n/)
    const numbers = term.text.match(/[\r\n]\d+(?=\r?\n)/g).map(Number)
    assert.equal(numbers.length, 200_000)
    assert.ok(numbers.every((n, i) => n === i + 1))
  }))

test('bytes that are no text pass through unchanged', () =>
  withSandbox(async (sandbox) => {
    const chunks = []
    const handle = await sandbox.pty.create({ cols: 80, rows: 24, onData: (data) => void chunks.push(Buffer.from(data)), timeoutMs: 60_000 * slow })
    const all = Buffer.from(Array.from({ length: 256 }, (_, i) => i))
    await sandbox.files.write('/tmp/all', all.buffer.slice(all.byteOffset, all.byteOffset + 256))
    await sandbox.pty.sendInput(handle.pid, keys('stty -opost; printf "<<""<"; cat /tmp/all; printf ">>"">"\n'))
    const between = () => {
      const data = Buffer.concat(chunks)
      const start = data.indexOf('<<<')
      const end = data.indexOf('>>>', start)
      return start >= 0 && end > start && data.subarray(start + 3, end)
    }
    assert.deepEqual(await eventually('the bytes arrive', between), all)
  }))

test('a long paste arrives complete', () =>
  withSandbox(async (sandbox) => {
    const term = await terminal(sandbox)
    await term.answers('stty -echo; echo "rea"dy; cat > /tmp/pasted; stty echo; echo "pas"ted', 'ready\r\n')
    const text = Array.from({ length: 3000 }, (_, i) => `line ${i} ${'x'.repeat(40)}\n`).join('')
    for (let i = 0; i < text.length; i += 30_000) await term.type(text.slice(i, i + 30_000))
    await term.type('\x04')
    await term.sees('\npasted\r\n')
    assert.equal(await sandbox.files.read('/tmp/pasted'), text)
  }))

test('typed letters of any script come back', () =>
  withSandbox(async (sandbox) => {
    const term = await terminal(sandbox)
    await term.answers('read -r x; echo "<$x>"', 'read -r x')
    await term.answers('Grüße 漢字 🚀', '<Grüße 漢字 🚀>')
  }))

test('a full screen program draws itself', () =>
  withSandbox(async (sandbox) => {
    const term = await terminal(sandbox, { cols: 40, rows: 10 })
    await term.answers('seq 1 100 > /tmp/n; less /tmp/n', /\n9\r?\n.*\x1b/s)
    assert.ok(!term.text.includes('\n50\r\n'))
    await term.type('G')
    await term.sees('100')
    await term.type('q')
    await term.answers('echo "af"ter', 'after\r\n')
  }))

test('timeoutMs ends a terminal', () =>
  withSandbox(async (sandbox) => {
    const term = await terminal(sandbox, { timeoutMs: 1_500 })
    await assert.rejects(term.handle.wait(), sdk.TimeoutError)
    await eventually('the shell is gone', async () => !(await sandbox.commands.list()).some((p) => p.pid === term.pid))
  }))

test('what does not exist is not found', () =>
  withSandbox(async ({ pty }) => {
    await assert.rejects(pty.sendInput(999_999, keys('x')), sdk.NotFoundError)
    await assert.rejects(pty.resize(999_999, { cols: 80, rows: 24 }), sdk.NotFoundError)
    await assert.rejects(pty.connect(999_999, { onData() {} }), sdk.NotFoundError)
  }))

test('a command without a terminal has no size', () =>
  withSandbox(async (sandbox) => {
    const handle = await sandbox.commands.run('sleep 30', { background: true })
    await assert.rejects(sandbox.pty.resize(handle.pid, { cols: 80, rows: 24 }), sdk.SandboxError)
    assert.equal((await sandbox.commands.run('tty || true')).stdout, 'not a tty\n')
  }))

test('killing the sandbox ends its terminals with an error', () =>
  withSandbox(async (sandbox) => {
    const term = await terminal(sandbox)
    const ended = assert.rejects(term.handle.wait(), sdk.SandboxError)
    await sandbox.kill()
    await ended
  }))
