// Watching directories: what happened, when, and how it ends.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { sdk, withSandbox, eventually } from './lib.mjs'

const { FilesystemEventType: Type } = sdk

/** Watches a directory, and hands fn the events seen so far. */
async function watching({ files }, path, opts, fn) {
  const seen = []
  let exit
  const handle = await files.watchDir(path, (e) => void seen.push(e), { ...opts, onExit: (err) => (exit = { err }) })
  try {
    await fn({
      seen,
      handle,
      exit: () => exit,
      event: (type, name) => eventually(`${type} of ${name}`, () => seen.find((e) => e.type === type && e.name === name)),
    })
  } finally {
    await handle.stop()
  }
}

test('a new file is created and written, an old one written', () =>
  withSandbox(async (sandbox) => {
    const { files } = sandbox
    await files.makeDir('watched')
    await watching(sandbox, 'watched', {}, async ({ seen, event }) => {
      await files.write('watched/f.txt', 'one')
      await event(Type.WRITE, 'f.txt')
      await files.write('watched/f.txt', 'two')
      await eventually('the second write', () => seen.filter((e) => e.type === Type.WRITE).length === 2)
      assert.deepEqual(seen.map((e) => `${e.type} ${e.name}`), ['create f.txt', 'write f.txt', 'write f.txt'])
      assert.equal(seen[0].entry, undefined)
    })
  }))

test('what programs in the sandbox do is seen', () =>
  withSandbox(async (sandbox) => {
    await watching(sandbox, '/home/user', {}, async ({ event }) => {
      await sandbox.commands.run('echo text > f; chmod 600 f; mv f g; rm g')
      await event(Type.CREATE, 'f')
      await event(Type.WRITE, 'f')
      await event(Type.CHMOD, 'f')
      await event(Type.RENAME, 'f')
      await event(Type.CREATE, 'g')
      await event(Type.REMOVE, 'g')
    })
  }))

test('recursive watching covers directories made later, and all in them', () =>
  withSandbox(async (sandbox) => {
    const { files, commands } = sandbox
    await files.makeDir('watched/old')
    await watching(sandbox, 'watched', { recursive: true }, async ({ seen, event }) => {
      await files.write('watched/old/f', 'x')
      await event(Type.WRITE, 'old/f')
      await commands.run('mkdir -p watched/a/b/c && for i in $(seq 100); do echo $i > watched/a/b/c/$i; done')
      for (let i = 1; i <= 100; i++) await event(Type.CREATE, `a/b/c/${i}`)
      await files.rename('watched/a', 'watched/z')
      await event(Type.RENAME, 'a')
      await event(Type.CREATE, 'z')
      await files.write('watched/z/b/late', 'x')
      await event(Type.CREATE, 'z/b/late')
      assert.equal(new Set(seen.filter((e) => e.type === Type.CREATE).map((e) => e.name)).size, seen.filter((e) => e.type === Type.CREATE).length)
    })
    await watching(sandbox, 'watched', {}, async ({ seen, event }) => {
      await files.write('watched/old/g', 'x')
      await files.write('watched/end', 'x')
      await event(Type.CREATE, 'end')
      assert.ok(!seen.some((e) => e.name.startsWith('old/')))
    })
  }))

test('entries come when asked for', () =>
  withSandbox(async (sandbox) => {
    const { files } = sandbox
    await files.makeDir('watched')
    await watching(sandbox, 'watched', { includeEntry: true }, async ({ event }) => {
      await files.write('watched/f', '12345')
      const { entry } = await event(Type.WRITE, 'f')
      assert.equal(entry.path, '/home/user/watched/f')
      assert.equal(entry.size, 5)
      assert.equal(entry.type, sdk.FileType.FILE)
      await files.remove('watched/f')
      assert.equal((await event(Type.REMOVE, 'f')).entry, undefined)
    })
  }))

test('the stream ends without an error when the directory is removed', () =>
  withSandbox(async (sandbox) => {
    await sandbox.files.makeDir('watched')
    await watching(sandbox, 'watched', {}, async ({ event, exit }) => {
      await sandbox.files.remove('watched')
      await event(Type.REMOVE, '.')
      await eventually('the end', exit)
      assert.equal(exit().err, undefined)
    })
  }))

test('stop stops', () =>
  withSandbox(async (sandbox) => {
    const { files } = sandbox
    await watching(sandbox, '/home/user', {}, async ({ seen, handle, event, exit }) => {
      await files.write('one', '')
      await event(Type.CREATE, 'one')
      await handle.stop()
      await eventually('the end', exit)
      const before = seen.length
      await files.write('two', '')
      assert.equal(seen.length, before)
    })
  }))

test('only directories that exist can be watched', () =>
  withSandbox(async ({ files }) => {
    await files.write('f', '')
    await assert.rejects(files.watchDir('none', () => {}), sdk.NotFoundError)
    await assert.rejects(files.watchDir('f', () => {}), sdk.InvalidArgumentError)
    await assert.rejects(files.watchDir('/', () => {}, { user: 'nobody-of-that-name' }), sdk.AuthenticationError)
  }))
