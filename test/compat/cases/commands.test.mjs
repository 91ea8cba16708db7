// Commands in the foreground: output, exit codes, environment, user, directory, limits.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { sdk, slow, sleep, withSandbox, eventually } from './lib.mjs'

test('run gives output, error output and exit code', () =>
  withSandbox(async ({ commands }) => {
    const result = await commands.run('echo out; echo err >&2')
    assert.equal(result.stdout, 'out\n')
    assert.equal(result.stderr, 'err\n')
    assert.equal(result.exitCode, 0)
  }))

test('a failing command throws CommandExitError with all it produced', () =>
  withSandbox(async ({ commands }) => {
    await assert.rejects(commands.run('echo partial; echo why >&2; exit 7'), (err) => {
      assert.ok(err instanceof sdk.CommandExitError)
      assert.equal(err.exitCode, 7)
      assert.equal(err.stdout, 'partial\n')
      assert.equal(err.stderr, 'why\n')
      return true
    })
  }))

test('an unknown program exits with 127', () =>
  withSandbox(({ commands }) =>
    assert.rejects(commands.run('no-such-program-anywhere'), (err) => err.exitCode === 127 && /not found/.test(err.stderr))))

test('output is streamed while the command runs', () =>
  withSandbox(async ({ commands }) => {
    const seen = []
    let finished = false
    const running = commands
      .run('echo first; sleep 1; echo second >&2; sleep 1; echo third', {
        onStdout: (data) => void seen.push(['out', data, finished]),
        onStderr: (data) => void seen.push(['err', data, finished]),
      })
      .finally(() => (finished = true))
    await eventually('the first line arrives', () => seen.length > 0, 5_000)
    assert.equal(finished, false, 'output came only at the end')
    const result = await running
    assert.deepEqual(seen.map(([kind, data]) => [kind, data]), [['out', 'first\n'], ['err', 'second\n'], ['out', 'third\n']])
    assert.equal(result.stdout, 'first\nthird\n')
    assert.equal(result.stderr, 'second\n')
  }))

test('characters cut in two by the pipe arrive whole', () =>
  withSandbox(async ({ commands }) => {
    const { stdout } = await commands.run(`printf '\\xe6\\xbc'; sleep 0.3; printf '\\xa2\\xe5\\xad\\x97 \\xf0\\x9f'; sleep 0.3; printf '\\x9a\\x80'`)
    assert.equal(stdout, '漢字 🚀')
  }))

test('a megabyte of output arrives complete and in order', () =>
  withSandbox(async ({ commands }) => {
    const { stdout } = await commands.run('seq 1 150000')
    const lines = stdout.trimEnd().split('\n')
    assert.equal(lines.length, 150_000)
    assert.ok(lines.every((line, i) => Number(line) === i + 1))
  }))

test('envs of one command are its own', () =>
  withSandbox({ envs: { SHARED: 'sandbox', KEPT: 'yes' } }, async ({ commands }) => {
    const inner = await commands.run('echo $SHARED $KEPT $OWN', { envs: { SHARED: 'command', OWN: 'mine' } })
    assert.equal(inner.stdout, 'command yes mine\n')
    const after = await commands.run('echo "$SHARED" "$KEPT" "${OWN-unset}"')
    assert.equal(after.stdout, 'sandbox yes unset\n')
  }))

test('commands run as user in its home directory', () =>
  withSandbox(async ({ commands }) => {
    const { stdout } = await commands.run('whoami; pwd; echo $HOME; id -u')
    assert.equal(stdout, 'user\n/home/user\n/home/user\n1000\n')
  }))

test('cwd chooses the directory', () =>
  withSandbox(async ({ commands }) => {
    assert.equal((await commands.run('pwd', { cwd: '/usr/share' })).stdout, '/usr/share\n')
    await assert.rejects(commands.run('pwd', { cwd: '/no/such/directory' }), sdk.SandboxError)
  }))

test('user root runs as root', () =>
  withSandbox(async ({ commands }) => {
    const { stdout } = await commands.run('id -u; whoami; echo $HOME', { user: 'root' })
    assert.equal(stdout, '0\nroot\n/root\n')
    await commands.run('echo secret > /root/file && chmod 600 /root/file', { user: 'root' })
    await assert.rejects(commands.run('cat /root/file'), (err) => err.exitCode === 1)
  }))

test('user becomes root with sudo and no password', () =>
  withSandbox(async ({ commands }) => {
    assert.equal((await commands.run('sudo id -u')).stdout, '0\n')
  }))

test('a user that does not exist is refused', () =>
  withSandbox(({ commands }) => assert.rejects(commands.run('id', { user: 'nobody-knows-me' }), sdk.AuthenticationError)))

test('timeoutMs ends a command that takes too long', () =>
  withSandbox(async ({ commands }) => {
    const start = Date.now()
    await assert.rejects(commands.run('sleep 31.5', { timeoutMs: 1_000 }), sdk.TimeoutError)
    assert.ok(Date.now() - start < 10_000 * slow)
    await eventually('the command no longer runs', async () => !(await commands.list()).some((p) => p.args.includes('sleep 31.5')))
  }))

test('timeoutMs 0 means no limit', () =>
  withSandbox(async ({ commands }) => {
    assert.equal((await commands.run('sleep 1; echo done', { timeoutMs: 0 })).stdout, 'done\n')
  }))

test('a command without stdin sees its end at once', () =>
  withSandbox(async ({ commands }) => {
    assert.equal((await commands.run('cat; echo over', { timeoutMs: 10_000 * slow })).stdout, 'over\n')
  }))

test('many commands run at once', () =>
  withSandbox(async ({ commands }) => {
    const results = await Promise.all(Array.from({ length: 20 }, (_, i) => commands.run(`sleep 0.2; echo ${i}`)))
    assert.deepEqual(results.map((r) => Number(r.stdout)), Array.from({ length: 20 }, (_, i) => i))
  }))

test('a process killed by a signal is not a success', () =>
  withSandbox(({ commands }) =>
    assert.rejects(commands.run('kill -KILL $$'), (err) => err instanceof sdk.CommandExitError && err.exitCode !== 0)))

test('what a command leaves in the background does not hold it up', () =>
  withSandbox(async ({ commands }) => {
    const start = Date.now()
    const { stdout } = await commands.run('nohup sleep 30 >/dev/null 2>&1 & echo started')
    assert.equal(stdout, 'started\n')
    assert.ok(Date.now() - start < 10_000 * slow)
    await sleep(100)
    assert.equal((await commands.run('pgrep -fc "^sleep 30"')).stdout, '1\n')
  }))

test('python, node, git and curl are there', () =>
  withSandbox(async ({ commands }) => {
    assert.equal((await commands.run(`python3 -c 'print(6*7)'`)).stdout, '42\n')
    assert.equal((await commands.run(`node -e 'console.log(6*7)'`)).stdout, '42\n')
    assert.match((await commands.run('git --version')).stdout, /^git version/)
    assert.match((await commands.run('curl --version')).stdout, /^curl/)
  }))
