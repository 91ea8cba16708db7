// Watching directories: each change is told, with the right name and kind.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Sandbox, eventually, sdk, slow, sleep, withSandbox } from './lib.mjs'

const dir = '/home/user/watched'

/** A watch whose events are kept. */
async function watching(sandbox, opts = {}, path = dir) {
  const seen = { events: [], exits: [] }
  seen.handle = await sandbox.files.watchDir(path, (event) => void seen.events.push(event), {
    onExit: (err) => void seen.exits.push(err),
    ...opts,
  })
  seen.has = (type, name) => seen.events.some((e) => e.type === type && e.name === name)
  seen.tells = (type, name) =>
    eventually(() => `${type} of ${name}; told were ${seen.events.map((e) => `${e.type} ${e.name}`).join(', ')}`, () => seen.has(type, name))
  seen.count = (type, name) => seen.events.filter((e) => e.type === type && e.name === name).length
  return seen
}

const prepared = (fn) => withSandbox(async (sandbox) => {
  await sandbox.files.makeDir(dir)
  return fn(sandbox)
})

const { CREATE, WRITE, REMOVE, RENAME, CHMOD } = sdk.FilesystemEventType

test('a new file is told as created and written', () =>
  prepared(async (sandbox) => {
    const seen = await watching(sandbox)
    await sandbox.files.write(`${dir}/new.txt`, 'hello')
    await seen.tells(WRITE, 'new.txt')
    assert.ok(seen.has(CREATE, 'new.txt') || seen.has(RENAME, 'new.txt'))
  }))

test('what commands do is told: create, write, chmod, remove', () =>
  prepared(async (sandbox) => {
    const seen = await watching(sandbox)
    await sandbox.commands.run(`cd ${dir}; echo 1 > f`)
    await seen.tells(CREATE, 'f')
    await seen.tells(WRITE, 'f')
    assert.ok(!seen.has(CHMOD, 'f') && !seen.has(REMOVE, 'f'))
    await sandbox.commands.run(`cd ${dir}; chmod 600 f`)
    await seen.tells(CHMOD, 'f')
    await sandbox.commands.run(`cd ${dir}; rm f`)
    await seen.tells(REMOVE, 'f')
    assert.equal(seen.count(REMOVE, 'f'), 1)
    assert.equal(seen.count(CREATE, 'f'), 1)
  }))

test('writing an existing file is told as a write', () =>
  prepared(async (sandbox) => {
    await sandbox.files.write(`${dir}/old.txt`, 'before')
    const seen = await watching(sandbox)
    await sandbox.files.write(`${dir}/old.txt`, 'after')
    await seen.tells(WRITE, 'old.txt')
    assert.equal(await sandbox.files.read(`${dir}/old.txt`), 'after')
    assert.ok(!seen.has(REMOVE, 'old.txt'))
  }))

test('a rename is told under the old name, and the new one appears', () =>
  prepared(async (sandbox) => {
    await sandbox.files.write(`${dir}/old.txt`, 'x')
    const seen = await watching(sandbox)
    await sandbox.files.rename(`${dir}/old.txt`, `${dir}/new.txt`)
    await seen.tells(RENAME, 'old.txt')
    await seen.tells(CREATE, 'new.txt')
  }))

test('removal is told', () =>
  prepared(async (sandbox) => {
    await sandbox.files.write(`${dir}/old.txt`, 'x')
    const seen = await watching(sandbox)
    await sandbox.files.remove(`${dir}/old.txt`)
    await seen.tells(REMOVE, 'old.txt')
  }))

test('a new directory is told', () =>
  prepared(async (sandbox) => {
    const seen = await watching(sandbox)
    await sandbox.files.makeDir(`${dir}/sub`)
    await seen.tells(CREATE, 'sub')
    await sandbox.files.remove(`${dir}/sub`)
    await seen.tells(REMOVE, 'sub')
  }))

test('without recursive what happens further down is not told', () =>
  prepared(async (sandbox) => {
    await sandbox.files.makeDir(`${dir}/sub`)
    const seen = await watching(sandbox)
    await sandbox.files.write(`${dir}/sub/inner.txt`, 'x')
    await sandbox.files.write(`${dir}/mark`, 'x')
    await seen.tells(WRITE, 'mark')
    assert.ok(!seen.events.some((e) => e.name.includes('inner')), JSON.stringify(seen.events))
  }))

test('recursive tells what happens at every depth, with the path as name', () =>
  prepared(async (sandbox) => {
    await sandbox.files.makeDir(`${dir}/a/b`)
    const seen = await watching(sandbox, { recursive: true })
    await sandbox.files.write(`${dir}/a/b/deep.txt`, 'x')
    await seen.tells(WRITE, 'a/b/deep.txt')
    await sandbox.files.remove(`${dir}/a/b/deep.txt`)
    await seen.tells(REMOVE, 'a/b/deep.txt')
  }))

test('recursive includes directories made later, and loses nothing in them', () =>
  prepared(async (sandbox) => {
    const seen = await watching(sandbox, { recursive: true })
    await sandbox.commands.run(`cd ${dir}; for i in $(seq 50); do mkdir -p new$i/in; echo x > new$i/in/f; done`)
    for (let i = 1; i <= 50; i++) await seen.tells(CREATE, `new${i}/in/f`)
    await sandbox.commands.run(`cd ${dir}; echo y >> new7/in/f`)
    await seen.tells(WRITE, 'new7/in/f')
    await sandbox.commands.run(`cd ${dir}; mv new7 moved; echo z > moved/in/g`)
    await seen.tells(CREATE, 'moved/in/g')
  }))

test('includeEntry brings details of the file', () =>
  prepared(async (sandbox) => {
    const seen = await watching(sandbox, { includeEntry: true })
    await sandbox.commands.run(`cd ${dir}; printf hello > f; chmod 640 f`)
    await seen.tells(CHMOD, 'f')
    const { entry } = seen.events.findLast((e) => e.name === 'f')
    assert.ok(entry, 'the event has no entry')
    assert.equal(entry.name, 'f')
    assert.equal(entry.path, `${dir}/f`)
    assert.equal(entry.type, 'file')
    assert.equal(entry.size, 5)
    assert.equal(entry.mode, 0o640)
    assert.equal(entry.owner, 'user')
    assert.ok(entry.modifiedTime instanceof Date)
    await sandbox.files.remove(`${dir}/f`)
    await seen.tells(REMOVE, 'f')
  }))

test('without includeEntry events have none', () =>
  prepared(async (sandbox) => {
    const seen = await watching(sandbox)
    await sandbox.files.write(`${dir}/f`, 'x')
    await seen.tells(WRITE, 'f')
    assert.ok(seen.events.every((e) => e.entry === undefined))
  }))

test('stop ends the watch: nothing more is told', () =>
  prepared(async (sandbox) => {
    const seen = await watching(sandbox)
    await sandbox.files.write(`${dir}/one`, 'x')
    await seen.tells(WRITE, 'one')
    await seen.handle.stop()
    await eventually('onExit is called', () => seen.exits.length > 0)
    assert.equal(seen.exits.length, 1)
    await sandbox.files.write(`${dir}/two`, 'x')
    await sleep(300)
    assert.ok(!seen.events.some((e) => e.name === 'two'))
  }))

test('several watches of one directory each tell everything', () =>
  prepared(async (sandbox) => {
    const all = await Promise.all([1, 2, 3].map(() => watching(sandbox)))
    await all[0].handle.stop()
    await sandbox.files.write(`${dir}/f`, 'x')
    await Promise.all(all.slice(1).map((seen) => seen.tells(WRITE, 'f')))
  }))

test('a thousand files are told one by one', () =>
  prepared(async (sandbox) => {
    const seen = await watching(sandbox)
    await sandbox.commands.run(`cd ${dir}; for i in $(seq 1000); do : > f$i; done`)
    await eventually('all are told', () => new Set(seen.events.filter((e) => e.type === CREATE).map((e) => e.name)).size === 1000)
  }))

test('timeoutMs ends a watch, and onExit says so', () =>
  prepared(async (sandbox) => {
    const seen = await watching(sandbox, { timeoutMs: 1_000 })
    await eventually('onExit is called', () => seen.exits.length > 0)
    assert.ok(seen.exits[0] instanceof sdk.TimeoutError, String(seen.exits[0]))
  }))

test('a missing directory throws FileNotFoundError', () =>
  withSandbox((sandbox) => assert.rejects(watching(sandbox, {}, '/home/user/none'), sdk.FileNotFoundError)))

test('a file cannot be watched', () =>
  withSandbox(async (sandbox) => {
    await sandbox.files.write('/tmp/file', 'x')
    await assert.rejects(watching(sandbox, {}, '/tmp/file'), sdk.SandboxError)
  }))

test('a relative path belongs to the home directory of the user', () =>
  prepared(async (sandbox) => {
    const seen = await watching(sandbox, {}, 'watched')
    await sandbox.files.write(`${dir}/f`, 'x')
    await seen.tells(WRITE, 'f')
    const roots = await watching(sandbox, { user: 'root' }, '/root')
    await sandbox.files.write('/root/g', 'x', { user: 'root' })
    await roots.tells(WRITE, 'g')
  }))

test('removing the watched directory ends the watch', () =>
  prepared(async (sandbox) => {
    const seen = await watching(sandbox)
    await sandbox.files.remove(dir)
    await eventually('onExit is called', () => seen.exits.length > 0)
  }))

test('killing the sandbox ends a watch with an error', () =>
  withSandbox(async (sandbox) => {
    const seen = await watching(sandbox, {}, '/tmp')
    await sandbox.kill()
    await eventually('onExit is called', () => seen.exits.length > 0)
    assert.ok(seen.exits[0] instanceof sdk.SandboxError, String(seen.exits[0]))
  }))

test('a watch is quick', () =>
  prepared(async (sandbox) => {
    const seen = await watching(sandbox)
    const other = await Sandbox.connect(sandbox.sandboxId)
    const start = Date.now()
    await other.files.write(`${dir}/f`, 'x')
    await seen.tells(WRITE, 'f')
    assert.ok(Date.now() - start < 2_000 * slow)
  }))
