// Files: read and write in every form, list, look, move, remove.
import assert from 'node:assert/strict'
import { createHash, randomBytes } from 'node:crypto'
import { test } from 'node:test'
import { Sandbox, sdk, withSandbox } from './lib.mjs'

const sha256 = (data) => createHash('sha256').update(data).digest('hex')
const paths = (entries) => entries.map((entry) => entry.path)

async function collect(stream) {
  const chunks = []
  for await (const chunk of stream) chunks.push(chunk)
  return Buffer.concat(chunks)
}

test('write and read text', () =>
  withSandbox(async ({ files }) => {
    const info = await files.write('/tmp/note.txt', 'Grüße, 世界\n')
    assert.equal(info.name, 'note.txt')
    assert.equal(info.path, '/tmp/note.txt')
    assert.equal(info.type, 'file')
    assert.equal(await files.read('/tmp/note.txt'), 'Grüße, 世界\n')
  }))

test('read gives text, bytes, a blob or a stream', () =>
  withSandbox(async ({ files }) => {
    await files.write('/tmp/data', 'four ways')
    assert.equal(await files.read('/tmp/data', { format: 'text' }), 'four ways')
    const bytes = await files.read('/tmp/data', { format: 'bytes' })
    assert.ok(bytes instanceof Uint8Array)
    assert.equal(Buffer.from(bytes).toString(), 'four ways')
    const blob = await files.read('/tmp/data', { format: 'blob' })
    assert.equal(await blob.text(), 'four ways')
    const stream = await files.read('/tmp/data', { format: 'stream' })
    assert.equal((await collect(stream)).toString(), 'four ways')
  }))

test('write takes text, an ArrayBuffer, a blob or a stream', () =>
  withSandbox(async ({ files }) => {
    const encode = (text) => new TextEncoder().encode(text)
    await files.write('/tmp/a', 'text')
    await files.write('/tmp/b', encode('buffer').buffer)
    await files.write('/tmp/c', new Blob(['blob']))
    const parts = ['str', 'eam']
    const stream = new ReadableStream({
      pull(controller) {
        if (parts.length) controller.enqueue(encode(parts.shift()))
        else controller.close()
      },
    })
    await files.write('/tmp/d', stream)
    assert.deepEqual(await Promise.all(['a', 'b', 'c', 'd'].map((n) => files.read(`/tmp/${n}`))), ['text', 'buffer', 'blob', 'stream'])
  }))

test('a relative path belongs to the home directory', () =>
  withSandbox(async ({ files, commands }) => {
    assert.equal((await files.write('work/here.txt', 'x')).path, '/home/user/work/here.txt')
    assert.equal(await files.read('work/here.txt'), 'x')
    assert.equal((await commands.run('cat ~/work/here.txt')).stdout, 'x')
    await files.write('mine', 'r', { user: 'root' })
    assert.equal((await commands.run('cat /root/mine', { user: 'root' })).stdout, 'r')
  }))

test('write replaces what was there, also when it was longer', () =>
  withSandbox(async ({ files }) => {
    await files.write('/tmp/f', 'a long first version')
    await files.write('/tmp/f', 'short')
    assert.equal(await files.read('/tmp/f'), 'short')
    assert.equal((await files.getInfo('/tmp/f')).size, 5)
  }))

test('an empty file is a file', () =>
  withSandbox(async ({ files }) => {
    await files.write('/tmp/empty', '')
    assert.equal(await files.read('/tmp/empty'), '')
    assert.equal((await files.read('/tmp/empty', { format: 'bytes' })).length, 0)
    assert.equal((await files.getInfo('/tmp/empty')).size, 0)
  }))

test('write makes the directories it needs, and they belong to the user', () =>
  withSandbox(async ({ files, commands }) => {
    await files.write('/home/user/a/b/c/deep.txt', 'down here')
    assert.equal(await files.read('/home/user/a/b/c/deep.txt'), 'down here')
    assert.equal((await commands.run('stat -c %U:%G a a/b/c a/b/c/deep.txt')).stdout, 'user:user\n'.repeat(3))
  }))

test('five megabytes of random bytes go in and come out unchanged', () =>
  withSandbox(async ({ files, commands }) => {
    const data = randomBytes(5 * 1024 * 1024)
    await files.write('/tmp/big.bin', data.buffer.slice(data.byteOffset, data.byteOffset + data.length))
    const { stdout } = await commands.run('sha256sum /tmp/big.bin')
    assert.equal(stdout.split(' ')[0], sha256(data))
    assert.equal(sha256(await files.read('/tmp/big.bin', { format: 'bytes' })), sha256(data))
    assert.equal(sha256(await collect(await files.read('/tmp/big.bin', { format: 'stream' }))), sha256(data))
  }))

test('transfers can be compressed', () =>
  withSandbox(async ({ files, commands }) => {
    const text = 'again and again, '.repeat(20_000)
    await files.write('/tmp/packed', text, { gzip: true })
    assert.equal((await commands.run('sha256sum < /tmp/packed')).stdout.split(' ')[0], sha256(text))
    assert.equal(await files.read('/tmp/packed', { gzip: true }), text)
  }))

test('names in any script, with spaces and quotes', () =>
  withSandbox(async ({ files, commands }) => {
    const names = ['zwei Wörter.txt', '漢字.md', '🚀', `it's 100% "so"+&?#=;.txt`, '-dash', 'a\\b']
    for (const name of names) {
      await files.write(`/tmp/names/${name}`, name)
      assert.equal(await files.read(`/tmp/names/${name}`), name, name)
      assert.equal((await files.getInfo(`/tmp/names/${name}`)).name, name)
    }
    assert.deepEqual((await files.list('/tmp/names')).map((e) => e.name).sort(), [...names].sort())
    assert.equal((await commands.run('ls -1 /tmp/names | wc -l')).stdout.trim(), String(names.length))
  }))

test('writeFiles writes several files in one request', () =>
  withSandbox(async ({ files }) => {
    const entries = [
      { path: '/tmp/many/one.txt', data: 'one' },
      { path: '/tmp/many/sub dir/zwei ü.txt', data: new Blob(['two']) },
      { path: 'relative.txt', data: new TextEncoder().encode('three').buffer },
      { path: '/tmp/many/empty', data: '' },
    ]
    const infos = await files.writeFiles(entries)
    assert.deepEqual(paths(infos), ['/tmp/many/one.txt', '/tmp/many/sub dir/zwei ü.txt', '/home/user/relative.txt', '/tmp/many/empty'])
    assert.deepEqual(await Promise.all(paths(infos).map((p) => files.read(p))), ['one', 'two', 'three', ''])
    assert.deepEqual(await files.writeFiles([]), [])
  }))

test('writeFiles with a single entry returns a list', () =>
  withSandbox(async ({ files }) => {
    const infos = await files.writeFiles([{ path: '/tmp/single/one.txt', data: '1' }])
    assert.deepEqual(paths(infos), ['/tmp/single/one.txt'])
    assert.equal(await files.read('/tmp/single/one.txt'), '1')
  }))

test('list shows a directory', () =>
  withSandbox(async ({ files }) => {
    await files.writeFiles([{ path: '/tmp/dir/b.txt', data: 'bb' }, { path: '/tmp/dir/a/inner/x', data: 'x' }])
    const entries = await files.list('/tmp/dir')
    assert.deepEqual(entries.map(({ name, path, type }) => ({ name, path, type })), [
      { name: 'a', path: '/tmp/dir/a', type: 'dir' },
      { name: 'b.txt', path: '/tmp/dir/b.txt', type: 'file' },
    ])
    assert.equal(entries[1].size, 2)
    assert.deepEqual(paths(await files.list('/tmp/dir', { depth: 2 })), ['/tmp/dir/a', '/tmp/dir/a/inner', '/tmp/dir/b.txt'])
    assert.deepEqual(paths(await files.list('/tmp/dir', { depth: 3 })), ['/tmp/dir/a', '/tmp/dir/a/inner', '/tmp/dir/a/inner/x', '/tmp/dir/b.txt'])
    await assert.rejects(files.list('/tmp/dir', { depth: 0 }), sdk.InvalidArgumentError)
  }))

test('an empty directory lists nothing', () =>
  withSandbox(async ({ files }) => {
    await files.makeDir('/tmp/nothing')
    assert.deepEqual(await files.list('/tmp/nothing'), [])
  }))

test('a directory with a thousand files is listed completely', () =>
  withSandbox(async ({ files, commands }) => {
    await commands.run('mkdir /tmp/many && cd /tmp/many && touch $(seq -f f%04g 1 1000)')
    const names = (await files.list('/tmp/many')).map((e) => e.name)
    assert.deepEqual(names, Array.from({ length: 1000 }, (_, i) => `f${String(i + 1).padStart(4, '0')}`))
  }))

test('exists tells files and directories from nothing', () =>
  withSandbox(async ({ files }) => {
    await files.write('/tmp/there', 'x')
    assert.equal(await files.exists('/tmp/there'), true)
    assert.equal(await files.exists('/tmp'), true)
    assert.equal(await files.exists('/tmp/not-there'), false)
    assert.equal(await files.exists('/tmp/not/there/either'), false)
  }))

test('getInfo describes a file', () =>
  withSandbox(async ({ files, commands }) => {
    await files.write('/tmp/info.txt', 'hello')
    await commands.run('chmod 640 /tmp/info.txt')
    const info = await files.getInfo('/tmp/info.txt')
    assert.equal(info.name, 'info.txt')
    assert.equal(info.path, '/tmp/info.txt')
    assert.equal(info.type, 'file')
    assert.equal(info.size, 5)
    assert.equal(info.mode, 0o640)
    assert.equal(info.permissions, '-rw-r-----')
    assert.equal(info.owner, 'user')
    assert.equal(info.group, 'user')
    assert.ok(Math.abs(info.modifiedTime.getTime() - Date.now()) < 120_000)
  }))

test('getInfo describes a directory and a link', () =>
  withSandbox(async ({ files, commands }) => {
    const dir = await files.getInfo('/home/user')
    assert.equal(dir.type, 'dir')
    assert.equal(dir.owner, 'user')
    assert.match(dir.permissions, /^d/)
    await commands.run('cd /tmp && mkdir real && echo x > real/file && ln -s real/file link')
    assert.equal((await files.getInfo('/tmp/link')).symlinkTarget, '/tmp/real/file')
    assert.equal(await files.read('/tmp/link'), 'x\n')
  }))

test('makeDir is true for a new directory, false for an existing one', () =>
  withSandbox(async ({ files, commands }) => {
    assert.equal(await files.makeDir('/home/user/new/with/parents'), true)
    assert.equal(await files.makeDir('/home/user/new/with/parents'), false)
    assert.equal((await commands.run('stat -c %U:%F new/with/parents')).stdout, 'user:directory\n')
  }))

test('rename moves files and directories', () =>
  withSandbox(async ({ files }) => {
    await files.write('/tmp/old/name.txt', 'content')
    const info = await files.rename('/tmp/old/name.txt', '/tmp/old/other.txt')
    assert.equal(info.path, '/tmp/old/other.txt')
    assert.equal(info.name, 'other.txt')
    assert.equal(await files.exists('/tmp/old/name.txt'), false)
    await files.rename('/tmp/old', '/tmp/moved')
    assert.equal(await files.read('/tmp/moved/other.txt'), 'content')
    assert.equal(await files.exists('/tmp/old'), false)
  }))

test('remove removes files and whole directories, and a missing path is no error', () =>
  withSandbox(async ({ files }) => {
    await files.write('/tmp/tree/a/b', 'x')
    await files.write('/tmp/one', 'x')
    await files.remove('/tmp/one')
    assert.equal(await files.exists('/tmp/one'), false)
    await files.remove('/tmp/tree')
    assert.equal(await files.exists('/tmp/tree'), false)
    await files.remove('/tmp/tree')
  }))

test('a missing path throws FileNotFoundError', () =>
  withSandbox(async ({ files }) => {
    for (const attempt of [
      () => files.read('/tmp/nope'),
      () => files.read('/tmp/nope', { format: 'bytes' }),
      () => files.read('/tmp/nope', { format: 'stream' }),
      () => files.list('/tmp/nope'),
      () => files.getInfo('/tmp/nope'),
      () => files.rename('/tmp/nope', '/tmp/other'),
    ]) {
      await assert.rejects(attempt, (err) => err instanceof sdk.FileNotFoundError && err instanceof sdk.NotFoundError, String(attempt))
    }
  }))

test('reading a directory and listing a file are invalid', () =>
  withSandbox(async ({ files }) => {
    await files.write('/tmp/plain', 'x')
    await assert.rejects(files.read('/tmp'), sdk.InvalidArgumentError)
    await assert.rejects(files.list('/tmp/plain'), sdk.InvalidArgumentError)
    await assert.rejects(files.makeDir('/tmp/plain'), sdk.InvalidArgumentError)
    await assert.rejects(files.write('/tmp', 'x'), sdk.InvalidArgumentError)
  }))

test('files belong to the user who wrote them', () =>
  withSandbox(async ({ files }) => {
    await files.write('/tmp/mine', 'x')
    assert.equal((await files.getInfo('/tmp/mine')).owner, 'user')
    await files.write('/root/hers', 'x', { user: 'root' })
    const info = await files.getInfo('/root/hers', { user: 'root' })
    assert.equal(info.owner, 'root')
    assert.equal(info.group, 'root')
    await assert.rejects(files.read('/tmp/mine', { user: 'nobody-knows-me' }), sdk.AuthenticationError)
  }))

test('metadata stays with a file until it is written again', () =>
  withSandbox(async ({ files }) => {
    const info = await files.write('/home/user/tagged', 'x', { metadata: { Author: 'me', stage: 'draft' } })
    assert.deepEqual(info.metadata, { author: 'me', stage: 'draft' })
    assert.deepEqual((await files.getInfo('/home/user/tagged')).metadata, { author: 'me', stage: 'draft' })
    await files.write('/home/user/tagged', 'y')
    assert.deepEqual((await files.getInfo('/home/user/tagged')).metadata ?? {}, {})
  }))

test('twenty files written at once all arrive', () =>
  withSandbox(async ({ files }) => {
    const names = Array.from({ length: 20 }, (_, i) => `/tmp/par/${i}`)
    await Promise.all(names.map((name) => files.write(name, name)))
    assert.deepEqual(await Promise.all(names.map((name) => files.read(name))), names)
  }))

test('commands and files see the same file system', () =>
  withSandbox(async (sandbox) => {
    await sandbox.commands.run('echo from command > /tmp/shared')
    assert.equal(await sandbox.files.read('/tmp/shared'), 'from command\n')
    await sandbox.files.write('/tmp/script.py', 'print(sum(range(10)))')
    assert.equal((await sandbox.commands.run('python3 /tmp/script.py')).stdout, '45\n')
    const again = await Sandbox.connect(sandbox.sandboxId)
    assert.equal(await again.files.exists('/tmp/script.py'), true)
  }))
