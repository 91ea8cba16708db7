// Git inside the sandbox: repositories made, cloned, changed, pushed and pulled,
// over a file path and over HTTP with a password.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { eventually, sdk, withSandbox } from './lib.mjs'

const repo = '/home/user/repo'
const author = { authorName: 'Ada', authorEmail: 'ada@example.org' }
const lines = async (sandbox, cmd) => (await sandbox.commands.run(cmd)).stdout.trimEnd().split('\n')

/** A repository with one commit on main. */
async function started(sandbox, path = repo) {
  await sandbox.git.init(path, { initialBranch: 'main' })
  await sandbox.files.write(`${path}/a.txt`, 'one\n')
  await sandbox.git.add(path)
  await sandbox.git.commit(path, 'first', author)
}

/** A bare repository and a clone of it that has pushed one commit. */
async function shared(sandbox) {
  await sandbox.git.init('/home/user/origin.git', { bare: true, initialBranch: 'main' })
  await started(sandbox)
  await sandbox.git.remoteAdd(repo, 'origin', 'file:///home/user/origin.git')
  await sandbox.git.push(repo, { remote: 'origin', branch: 'main' })
}

test('init, add and commit make a history', () =>
  withSandbox(async (sandbox) => {
    await started(sandbox)
    assert.deepEqual(await lines(sandbox, `git -C ${repo} log --format='%an <%ae> %s'`), ['Ada <ada@example.org> first'])
    await sandbox.git.commit(repo, `it's "quoted" $HOME\n\nbody`, { ...author, allowEmpty: true })
    assert.deepEqual(await lines(sandbox, `git -C ${repo} log -1 --format=%B`), [`it's "quoted" $HOME`, '', 'body'])
    await assert.rejects(sandbox.git.commit(repo, 'nothing to say', author), sdk.CommandExitError)
  }))

test('a bare repository has no working tree', () =>
  withSandbox(async (sandbox) => {
    await sandbox.git.init('/home/user/store.git', { bare: true, initialBranch: 'trunk' })
    assert.deepEqual(await lines(sandbox, 'git -C store.git rev-parse --is-bare-repository; cat store.git/HEAD'), ['true', 'ref: refs/heads/trunk'])
  }))

test('status tells staged, changed, renamed, deleted and unknown files apart', () =>
  withSandbox(async (sandbox) => {
    await started(sandbox)
    const clean = await sandbox.git.status(repo)
    assert.equal(clean.currentBranch, 'main')
    assert.equal(clean.isClean, true)
    assert.deepEqual(clean.fileStatus, [])
    await sandbox.files.writeFiles(['b', 'c', 'd'].map((name) => ({ path: `${repo}/${name}.txt`, data: `${name}${name}${name}\n` })))
    await sandbox.git.add(repo, { files: ['b.txt', 'c.txt', 'd.txt'] })
    await sandbox.git.commit(repo, 'more', author)
    await sandbox.files.write(`${repo}/a.txt`, 'two\n')
    await sandbox.commands.run('git mv b.txt bb.txt; git rm -q c.txt; echo new > new.txt; echo staged > s.txt; git add s.txt', { cwd: repo })
    const status = await sandbox.git.status(repo)
    const byName = Object.fromEntries(status.fileStatus.map((f) => [f.name, f]))
    assert.deepEqual(Object.keys(byName).sort(), ['a.txt', 'bb.txt', 'c.txt', 'new.txt', 's.txt'])
    assert.equal(byName['a.txt'].status, 'modified')
    assert.equal(byName['a.txt'].staged, false)
    assert.equal(byName['bb.txt'].status, 'renamed')
    assert.equal(byName['bb.txt'].renamedFrom, 'b.txt')
    assert.equal(byName['c.txt'].status, 'deleted')
    assert.equal(byName['new.txt'].status, 'untracked')
    assert.equal(byName['s.txt'].status, 'added')
    assert.equal(byName['s.txt'].staged, true)
    assert.equal(status.isClean, false)
    assert.equal(status.hasUntracked, true)
    assert.equal(status.stagedCount, 3)
    assert.equal(status.untrackedCount, 1)
    assert.equal(status.totalCount, 5)
  }))

test('branches are made, listed, changed and deleted', () =>
  withSandbox(async (sandbox) => {
    await started(sandbox)
    await sandbox.git.createBranch(repo, 'feature/one')
    assert.deepEqual(await sandbox.git.branches(repo), { branches: ['feature/one', 'main'], currentBranch: 'feature/one' })
    await sandbox.git.commit(repo, 'only here', { ...author, allowEmpty: true })
    await sandbox.git.checkoutBranch(repo, 'main')
    assert.equal((await sandbox.git.branches(repo)).currentBranch, 'main')
    await assert.rejects(sandbox.git.deleteBranch(repo, 'feature/one'), sdk.CommandExitError, 'it is not merged')
    await sandbox.git.deleteBranch(repo, 'feature/one', { force: true })
    assert.deepEqual((await sandbox.git.branches(repo)).branches, ['main'])
    await assert.rejects(sandbox.git.checkoutBranch(repo, 'never-was'), sdk.CommandExitError)
  }))

test('reset goes back, softly or not', () =>
  withSandbox(async (sandbox) => {
    await started(sandbox)
    await sandbox.files.write(`${repo}/a.txt`, 'two\n')
    await sandbox.git.add(repo)
    await sandbox.git.commit(repo, 'second', author)
    await sandbox.git.reset(repo, { mode: 'soft', target: 'HEAD~1' })
    assert.equal((await sandbox.git.status(repo)).stagedCount, 1)
    await sandbox.git.reset(repo, { paths: ['a.txt'] })
    const unstaged = await sandbox.git.status(repo)
    assert.deepEqual([unstaged.stagedCount, unstaged.unstagedCount], [0, 1])
    await sandbox.git.reset(repo, { mode: 'hard' })
    assert.equal(await sandbox.files.read(`${repo}/a.txt`), 'one\n')
    await assert.rejects(sandbox.git.reset(repo, { mode: 'gently' }), sdk.InvalidArgumentError)
  }))

test('restore brings files back from the index and from history', () =>
  withSandbox(async (sandbox) => {
    await started(sandbox)
    await sandbox.files.write(`${repo}/a.txt`, 'spoilt')
    await sandbox.git.restore(repo, { paths: ['a.txt'] })
    assert.equal(await sandbox.files.read(`${repo}/a.txt`), 'one\n')
    await sandbox.files.write(`${repo}/a.txt`, 'two\n')
    await sandbox.git.add(repo)
    await sandbox.git.restore(repo, { paths: ['a.txt'], staged: true })
    assert.equal((await sandbox.git.status(repo)).stagedCount, 0)
    assert.equal(await sandbox.files.read(`${repo}/a.txt`), 'two\n')
    await sandbox.git.restore(repo, { paths: ['a.txt'], staged: true, worktree: true, source: 'HEAD' })
    assert.equal((await sandbox.git.status(repo)).isClean, true)
    await assert.rejects(sandbox.git.restore(repo, { paths: [] }), sdk.InvalidArgumentError)
  }))

test('remotes are added, read and replaced', () =>
  withSandbox(async (sandbox) => {
    await started(sandbox)
    await sandbox.git.init('/home/user/origin.git', { bare: true })
    assert.equal(await sandbox.git.remoteGet(repo, 'origin'), undefined)
    await sandbox.git.remoteAdd(repo, 'origin', '/nowhere')
    assert.equal(await sandbox.git.remoteGet(repo, 'origin'), '/nowhere')
    await assert.rejects(sandbox.git.remoteAdd(repo, 'origin', '/elsewhere'), sdk.CommandExitError)
    await sandbox.git.remoteAdd(repo, 'origin', '/home/user/origin.git', { overwrite: true, fetch: true })
    assert.equal(await sandbox.git.remoteGet(repo, 'origin'), '/home/user/origin.git')
  }))

test('push and pull carry commits between clones', () =>
  withSandbox(async (sandbox) => {
    await shared(sandbox)
    await sandbox.git.clone('file:///home/user/origin.git', { path: '/home/user/other' })
    const other = await sandbox.git.status('/home/user/other')
    assert.equal(other.upstream, 'origin/main')
    await sandbox.git.commit('/home/user/other', 'from the other', { ...author, allowEmpty: true })
    assert.equal((await sandbox.git.status('/home/user/other')).ahead, 1)
    await sandbox.git.push('/home/user/other')
    await sandbox.git.pull(repo)
    assert.deepEqual(await lines(sandbox, `git -C ${repo} log --format=%s`), ['from the other', 'first'])
    await sandbox.git.reset(repo, { mode: 'hard', target: 'HEAD~1' })
    assert.equal((await sandbox.git.status(repo)).behind, 1)
    await sandbox.git.pull(repo, { remote: 'origin', branch: 'main' })
    assert.equal((await sandbox.git.status(repo)).behind, 0)
  }))

test('without an upstream push and pull throw GitUpstreamError', () =>
  withSandbox(async (sandbox) => {
    await started(sandbox)
    await assert.rejects(sandbox.git.pull(repo), sdk.GitUpstreamError)
    await sandbox.git.init('/home/user/origin.git', { bare: true })
    await sandbox.git.remoteAdd(repo, 'origin', '/home/user/origin.git')
    await assert.rejects(sandbox.git.push(repo, { setUpstream: false }), sdk.GitUpstreamError)
  }))

test('clone takes one branch, a depth and a place', () =>
  withSandbox(async (sandbox) => {
    await shared(sandbox)
    await sandbox.git.commit(repo, 'second', { ...author, allowEmpty: true })
    await sandbox.git.createBranch(repo, 'side')
    await sandbox.git.push(repo, { remote: 'origin', branch: 'side' })
    await sandbox.git.clone('file:///home/user/origin.git', { path: '/home/user/thin', branch: 'side', depth: 1 })
    assert.deepEqual(await lines(sandbox, 'git -C thin log --format=%s'), ['second'])
    assert.deepEqual((await sandbox.git.branches('/home/user/thin')).branches, ['side'])
    await sandbox.git.clone('file:///home/user/origin.git', { cwd: '/tmp' })
    assert.equal(await sandbox.files.read('/tmp/origin/a.txt'), 'one\n')
    await assert.rejects(sandbox.git.clone('file:///home/user/none.git'), (err) => err.exitCode === 128)
  }))

test('settings are written and read at each scope', () =>
  withSandbox(async (sandbox) => {
    await started(sandbox)
    assert.equal(await sandbox.git.getConfig('pull.rebase'), undefined)
    await sandbox.git.setConfig('pull.rebase', 'false')
    assert.equal(await sandbox.git.getConfig('pull.rebase'), 'false')
    await sandbox.git.setConfig('pull.rebase', 'true', { scope: 'local', path: repo })
    assert.equal(await sandbox.git.getConfig('pull.rebase', { scope: 'local', path: repo }), 'true')
    assert.equal(await sandbox.git.getConfig('pull.rebase', { scope: 'global' }), 'false')
    await sandbox.git.setConfig('core.abbrev', '12', { scope: 'system', user: 'root' })
    assert.equal(await sandbox.git.getConfig('core.abbrev', { scope: 'system' }), '12')
    await assert.rejects(sandbox.git.setConfig('a.b', 'c', { scope: 'local' }), sdk.InvalidArgumentError)
  }))

test('configureUser gives commits an author', () =>
  withSandbox(async (sandbox) => {
    await sandbox.git.configureUser('Grace Hopper', 'grace@example.org')
    await sandbox.git.init(repo)
    await sandbox.git.commit(repo, 'mine', { allowEmpty: true })
    assert.deepEqual(await lines(sandbox, `git -C ${repo} log --format='%an <%ae>'`), ['Grace Hopper <grace@example.org>'])
    await sandbox.git.configureUser('Local', 'local@example.org', { scope: 'local', path: repo })
    assert.equal(await sandbox.git.getConfig('user.name', { scope: 'local', path: repo }), 'Local')
  }))

// git's own program for HTTP behind a password.
const gitServer = `
import base64, http.server, os, subprocess
class Git(http.server.BaseHTTPRequestHandler):
    def serve(self):
        if self.headers.get('Authorization') != 'Basic ' + base64.b64encode(b'ada:s3 cret').decode():
            self.send_response(401)
            self.send_header('WWW-Authenticate', 'Basic realm="git"')
            self.send_header('Content-Length', '0')
            self.end_headers()
            return
        path, _, query = self.path.partition('?')
        env = dict(os.environ, GIT_PROJECT_ROOT='/home/user', GIT_HTTP_EXPORT_ALL='1', REMOTE_USER='ada', PATH_INFO=path,
            QUERY_STRING=query, REQUEST_METHOD=self.command, CONTENT_TYPE=self.headers.get('Content-Type', ''))
        body = self.rfile.read(int(self.headers.get('Content-Length') or 0))
        out = subprocess.run(['git', 'http-backend'], input=body, env=env, stdout=subprocess.PIPE).stdout
        head, _, rest = out.partition(b'\\r\\n\\r\\n')
        fields = dict(line.split(': ', 1) for line in head.decode().split('\\r\\n'))
        self.send_response(int(fields.pop('Status', '200').split()[0]))
        for name, value in fields.items(): self.send_header(name, value)
        self.send_header('Content-Length', str(len(rest)))
        self.end_headers()
        self.wfile.write(rest)
    do_GET = do_POST = serve
http.server.ThreadingHTTPServer(('127.0.0.1', 8099), Git).serve_forever()
`

async function overHTTP(sandbox) {
  await shared(sandbox)
  await sandbox.git.setConfig('http.receivepack', 'true', { scope: 'local', path: '/home/user/origin.git' })
  await sandbox.files.write('/tmp/git.py', gitServer)
  await sandbox.commands.run('exec python3 /tmp/git.py', { background: true, timeoutMs: 0 })
  await eventually('the git server listens', async () =>
    (await sandbox.commands.run('curl -so /dev/null http://127.0.0.1:8099/ || echo no')).stdout === '')
  return 'http://127.0.0.1:8099/origin.git'
}

test('credentials open a repository over HTTP and are not kept', () =>
  withSandbox(async (sandbox) => {
    const url = await overHTTP(sandbox)
    await assert.rejects(sandbox.git.clone(url, { path: '/home/user/no' }), sdk.GitAuthError)
    await assert.rejects(sandbox.git.clone(url, { path: '/home/user/no', username: 'ada', password: 'wrong' }), sdk.GitAuthError)
    await assert.rejects(sandbox.git.clone(url, { password: 's3 cret' }), sdk.InvalidArgumentError)
    const secret = { username: 'ada', password: 's3 cret' }
    await sandbox.git.clone(url, { path: '/home/user/yes', ...secret })
    assert.equal(await sandbox.git.remoteGet('/home/user/yes', 'origin'), url)
    await sandbox.git.commit('/home/user/yes', 'over http', { ...author, allowEmpty: true })
    await assert.rejects(sandbox.git.push('/home/user/yes'), sdk.GitAuthError)
    await sandbox.git.push('/home/user/yes', secret)
    await assert.rejects(sandbox.git.pull('/home/user/yes'), sdk.GitAuthError)
    await sandbox.git.pull('/home/user/yes', secret)
    assert.deepEqual(await lines(sandbox, 'git -C origin.git log -1 --format=%s'), ['over http'])
    assert.equal((await sandbox.commands.run('grep -r s3 yes/.git/config || echo clean')).stdout, 'clean\n')
  }))

test('dangerouslyAuthenticate stores credentials for later', () =>
  withSandbox(async (sandbox) => {
    const url = await overHTTP(sandbox)
    await sandbox.git.dangerouslyAuthenticate({ username: 'ada', password: 's3 cret', host: '127.0.0.1:8099', protocol: 'http' })
    await sandbox.git.clone(url, { path: '/home/user/later' })
    assert.equal(await sandbox.files.read('/home/user/later/a.txt'), 'one\n')
  }))
