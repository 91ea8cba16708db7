// Files in less ordinary ways: metadata, streams, compression, links, depth,
// permissions, a full disk, and addresses that carry their own permission.
import assert from 'node:assert/strict'
import { createHash, randomBytes } from 'node:crypto'
import { test } from 'node:test'
import { gzipSync } from 'node:zlib'
import { Sandbox, byName, request, sdk, slow, sleep, withSandbox } from './lib.mjs'

const sha256 = (data) => createHash('sha256').update(data).digest('hex')
const bytes = (buffer) => buffer.buffer.slice(buffer.byteOffset, buffer.byteOffset + buffer.length)

/** count pieces of the given size, with a pause after each. */
function slowly(count, size, ms) {
  let i = 0
  return new ReadableStream({
    async pull(controller) {
      if (i === count) return controller.close()
      controller.enqueue(new Uint8Array(size).fill(65 + i++))
      await sleep(ms)
    },
  })
}

test('write takes a list of files too', () =>
  withSandbox(async ({ files }) => {
    const infos = await files.write([{ path: '/tmp/l/a', data: 'a' }, { path: '/tmp/l/b', data: new Blob(['b']) }])
    assert.deepEqual(infos.map((i) => [i.name, i.path, i.type]), [['a', '/tmp/l/a', 'file'], ['b', '/tmp/l/b', 'file']])
  }))

test('every kind of data can be sent as a plain stream of bytes', () =>
  withSandbox(async ({ files }) => {
    const opts = { useOctetStream: true }
    assert.deepEqual((await files.write('/tmp/o/text', 'text', opts)).path, '/tmp/o/text')
    await files.write('/tmp/o/buffer', new TextEncoder().encode('buffer').buffer, opts)
    await files.write('/tmp/o/blob', new Blob(['blob']), opts)
    await files.write('/tmp/o/empty', '', opts)
    await files.writeFiles([{ path: '/tmp/o/one ü', data: '1' }, { path: 'two', data: '2' }], opts)
    const read = await Promise.all(['/tmp/o/text', '/tmp/o/buffer', '/tmp/o/blob', '/tmp/o/empty', '/tmp/o/one ü', 'two'].map((p) => files.read(p)))
    assert.deepEqual(read, ['text', 'buffer', 'blob', '', '1', '2'])
  }))

test('a stream is written as it comes', () =>
  withSandbox(async ({ files, commands }) => {
    await files.write('/tmp/slow', slowly(5, 70_000, 60))
    assert.equal((await files.getInfo('/tmp/slow')).size, 350_000)
    assert.equal((await commands.run('fold -w 70000 /tmp/slow | cut -c1 | tr -d "\\n"')).stdout, 'ABCDE')
    await files.write('/tmp/slow', slowly(3, 70_000, 1), { gzip: true })
    assert.equal((await files.getInfo('/tmp/slow')).size, 210_000)
  }))

test('an interrupted upload leaves the old file as it was', () =>
  withSandbox(async ({ files, commands }) => {
    await files.write('/tmp/up/kept', 'the old text')
    await assert.rejects(files.write('/tmp/up/kept', slowly(100, 50_000, 100), { signal: AbortSignal.timeout(700) }))
    await sleep(300)
    // Over HTTP/2 Node ends a request it gives up as if it were complete, before it resets it.
    if (!byName) assert.equal(await files.read('/tmp/up/kept'), 'the old text')
    assert.equal((await commands.run('ls -A /tmp/up')).stdout, 'kept\n')
  }))

test('a stream can be left before its end', () =>
  withSandbox(async ({ files, commands }) => {
    await commands.run('head -c 50000000 /dev/zero > /tmp/long')
    const stream = await files.read('/tmp/long', { format: 'stream' })
    const reader = stream.getReader()
    assert.ok((await reader.read()).value.length > 0)
    await reader.cancel()
    assert.equal((await commands.run('echo fine')).stdout, 'fine\n')
  }))

test('every format can be read compressed', () =>
  withSandbox(async ({ files }) => {
    const text = 'pack me, '.repeat(50_000)
    await files.write('/tmp/p', text)
    assert.equal(await files.read('/tmp/p', { gzip: true, format: 'text' }), text)
    assert.equal(Buffer.from(await files.read('/tmp/p', { gzip: true, format: 'bytes' })).toString(), text)
    assert.equal(await (await files.read('/tmp/p', { gzip: true, format: 'blob' })).text(), text)
    assert.equal(await new Response(await files.read('/tmp/p', { gzip: true, format: 'stream' })).text(), text)
    await files.write('/tmp/e', '', { gzip: true })
    assert.equal(await files.read('/tmp/e', { gzip: true }), '')
  }))

test('an empty file can be read in every format', () =>
  withSandbox(async ({ files }) => {
    await files.write('/tmp/e', '')
    assert.equal(await files.read('/tmp/e', { format: 'text' }), '')
    assert.equal((await files.read('/tmp/e', { format: 'bytes' })).length, 0)
    assert.equal((await files.read('/tmp/e', { format: 'blob' })).size, 0)
    assert.equal(await new Response(await files.read('/tmp/e', { format: 'stream' })).text(), '')
  }))

test('a compressed file keeps its own bytes', () =>
  withSandbox(async ({ files, commands }) => {
    const packed = gzipSync('inside')
    await files.write('/tmp/f.gz', bytes(packed))
    assert.equal((await commands.run('zcat /tmp/f.gz')).stdout, 'inside')
    assert.deepEqual(Buffer.from(await files.read('/tmp/f.gz', { format: 'bytes', gzip: true })), packed)
  }))

test('thirty megabytes go in and come out as a stream', () =>
  withSandbox(async ({ files, commands }) => {
    const data = randomBytes(30 << 20)
    await files.write('/home/user/big', new Blob([data]).stream())
    assert.equal((await commands.run('sha256sum < big')).stdout.split(' ')[0], sha256(data))
    const hash = createHash('sha256')
    for await (const chunk of await files.read('/home/user/big', { format: 'stream' })) hash.update(chunk)
    assert.equal(hash.digest('hex'), sha256(data))
  }))

test('metadata is shown wherever a file is', () =>
  withSandbox(async ({ files, commands }) => {
    const metadata = { 'content-kind': 'report; v=1', empty: '', 'x-y_z.1': `"quoted" & 100%` }
    assert.deepEqual((await files.write('tagged', 'x', { metadata })).metadata, metadata)
    assert.deepEqual((await files.list('/home/user')).find((e) => e.name === 'tagged').metadata, metadata)
    assert.deepEqual((await files.rename('tagged', 'moved')).metadata, metadata)
    await commands.run('chmod 600 moved')
    assert.deepEqual((await files.getInfo('moved')).metadata, metadata)
    const many = await files.writeFiles([{ path: 'm1', data: '1' }, { path: 'm2', data: '2' }], { metadata: { set: 'both' } })
    assert.deepEqual(many.map((i) => i.metadata), [{ set: 'both' }, { set: 'both' }])
    await files.write('m1', 'stream', { metadata: { via: 'octets' }, useOctetStream: true })
    assert.deepEqual((await files.getInfo('m1')).metadata, { via: 'octets' })
    assert.equal((await files.write('plain', 'x')).metadata, undefined)
    assert.equal((await files.getInfo('plain')).metadata, undefined)
  }))

test('too much metadata is refused as an invalid argument', () =>
  withSandbox(({ files }) =>
    assert.rejects(files.write('f', 'x', { metadata: { k: 'v'.repeat(5_000) } }), sdk.InvalidArgumentError)))

test('links are described with where they lead', () =>
  withSandbox(async ({ files, commands }) => {
    await commands.run('mkdir -p d/e; echo x > d/f; cd d; ln -s f l; ln -s e le; ln -s /nowhere dangling; ln -s ../d up')
    const file = await files.getInfo('/home/user/d/l')
    assert.equal(file.symlinkTarget, '/home/user/d/f')
    assert.equal(file.name, 'l')
    assert.equal(file.path, '/home/user/d/l')
    const names = Object.fromEntries((await files.list('d')).map((e) => [e.name, e]))
    assert.equal(names.le.symlinkTarget, '/home/user/d/e')
    assert.equal(names.up.symlinkTarget, '/home/user/d')
    assert.equal(names.f.symlinkTarget, undefined)
    assert.equal(await files.exists('/home/user/d/l'), true)
    await files.remove('d/le')
    assert.equal(await files.exists('d/e'), true, 'what the link led to is gone')
    await files.write('d/l', 'through')
    assert.equal(await files.read('d/f'), 'through')
    assert.equal((await files.getInfo('d/l')).symlinkTarget, '/home/user/d/f', 'the link was replaced')
    await assert.rejects(files.read('d/dangling'), sdk.FileNotFoundError)
  }))

test('a link to a directory can be listed and written through', () =>
  withSandbox(async ({ files, commands }) => {
    await commands.run('mkdir real; touch real/a; ln -s real link')
    assert.deepEqual((await files.list('/home/user/link')).map((e) => e.name), ['a'])
    await files.write('link/b', 'b')
    assert.equal(await files.read('real/b'), 'b')
  }))

test('list goes as deep as asked and follows no links', () =>
  withSandbox(async ({ files, commands }) => {
    await commands.run('mkdir -p t/1/2/3/4; touch t/1/2/3/4/f; ln -s / t/root; ln -s ../t t/1/loop')
    const list = async (depth) => (await files.list('t', { depth })).map((e) => e.path.replace('/home/user/t/', ''))
    assert.deepEqual(await list(1), ['1', 'root'])
    assert.deepEqual(await list(2), ['1', '1/2', '1/loop', 'root'])
    assert.deepEqual(await list(20), ['1', '1/2', '1/2/3', '1/2/3/4', '1/2/3/4/f', '1/loop', 'root'])
    await assert.rejects(files.list('t', { depth: -1 }), sdk.InvalidArgumentError)
  }))

test('what is neither file nor directory harms nobody', () =>
  withSandbox(async ({ files, commands }) => {
    await commands.run('mkfifo pipe; touch beside')
    assert.ok((await files.list('/home/user')).some((e) => e.name === 'beside'))
    await assert.rejects(files.read('pipe', { requestTimeoutMs: 5_000 * slow }), sdk.InvalidArgumentError)
    assert.equal(await files.exists('pipe'), true)
    await files.remove('pipe')
    assert.equal(await files.exists('pipe'), false)
  }))

test('rename replaces a file, and makes the directories it needs', () =>
  withSandbox(async ({ files }) => {
    await files.write('a', 'new')
    await files.write('b', 'old')
    await files.rename('a', 'b')
    assert.equal(await files.read('b'), 'new')
    assert.equal((await files.rename('b', '/home/user/x/y/c')).path, '/home/user/x/y/c')
    assert.equal(await files.read('x/y/c'), 'new')
  }))

test('files of others are within reach, as with sudo, and new ones belong to the user', () =>
  withSandbox(async ({ files, commands }) => {
    await commands.run('mkdir /srv/hers; echo s > /srv/hers/secret; chmod 700 /srv/hers', { user: 'root' })
    assert.equal(await files.read('/srv/hers/secret'), 's\n')
    assert.equal(await files.makeDir('/srv/hers/mine'), true)
    await files.write('/srv/hers/mine/f', 'x')
    const list = async (path) => (await files.list(path, { depth: 2 })).map((e) => [e.name, e.owner])
    assert.deepEqual(await list('/srv/hers'), [['mine', 'user'], ['f', 'user'], ['secret', 'root']])
    assert.equal(await files.makeDir('/srv/hers/more', { user: 'root' }), true)
    assert.equal((await files.getInfo('/srv/hers/more')).owner, 'root')
    assert.equal((await files.rename('/srv/hers/secret', '/srv/hers/told')).owner, 'root')
    await files.remove('/srv/hers')
    assert.equal(await files.exists('/srv/hers'), false)
  }))

test('a path through a file is invalid, and an empty one too', () =>
  withSandbox(async ({ files }) => {
    await files.write('/tmp/file', 'x')
    const isWrong = (err) => err instanceof sdk.InvalidArgumentError || err instanceof sdk.NotFoundError
    await assert.rejects(files.write('/tmp/file/below', 'x'), isWrong)
    await assert.rejects(files.makeDir('/tmp/file/below'), isWrong)
    await assert.rejects(files.read('/tmp/file/below'), isWrong)
    await assert.rejects(files.list('/tmp/file/below'), isWrong)
    assert.equal(await files.read('/tmp/file'), 'x')
  }))

test('a name that is too long, or holds a zero byte, is an error of the SDK', () =>
  withSandbox(async (sandbox) => {
    for (const path of [`/tmp/${'n'.repeat(300)}`, '/tmp/' + 'deep/'.repeat(1_000) + 'f', '/tmp/zero\0byte']) {
      await assert.rejects(sandbox.files.read(path), sdk.SandboxError)
      await assert.rejects(sandbox.files.getInfo(path), sdk.SandboxError)
      await assert.rejects(sandbox.files.makeDir(path), sdk.SandboxError)
    }
    assert.equal(await sandbox.isRunning(), true)
  }))

test('a full disk throws NotEnoughSpaceError and keeps the old file', () =>
  withSandbox(async ({ files, commands }) => {
    await files.write('dir/kept', 'old')
    await commands.run('fallocate -l 10235M full') // of the 10 GiB a sandbox has
    const big = 'x'.repeat(12 << 20)
    await assert.rejects(files.write('dir/kept', big), sdk.NotEnoughSpaceError)
    await assert.rejects(files.write('dir/kept', big, { useOctetStream: true }), sdk.NotEnoughSpaceError)
    await assert.rejects(files.writeFiles([{ path: 'dir/small', data: 'x' }, { path: 'dir/big', data: big }]), sdk.NotEnoughSpaceError)
    assert.equal(await files.read('dir/kept'), 'old')
    assert.equal(await files.exists('dir/big'), false)
    assert.ok((await commands.run('ls -A dir')).stdout.split('\n').every((name) => ['', 'kept', 'small'].includes(name)))
    await commands.run('rm full')
    await files.write('dir/kept', big)
    assert.equal((await files.getInfo('dir/kept')).size, big.length)
  }))

// Addresses that carry their permission are used as any HTTP client would, with no header of E2B's.
const plain = (address, init) => fetch(address, init)

test('downloadUrl can be fetched by anyone who has it', () =>
  withSandbox(async (sandbox) => {
    await sandbox.files.write('/home/user/say ü.txt', 'for everyone')
    const reply = await plain(await sandbox.downloadUrl('/home/user/say ü.txt'))
    assert.equal(reply.status, 200)
    assert.equal(await reply.text(), 'for everyone')
    await sandbox.files.write('/root/hers', 'of root', { user: 'root' })
    assert.equal(await (await plain(await sandbox.downloadUrl('hers', { user: 'root' }))).text(), 'of root')
    assert.equal((await plain(await sandbox.downloadUrl('/no/such/file'))).status, 404)
  }))

test('uploadUrl takes a form with a file', () =>
  withSandbox(async (sandbox) => {
    const form = new FormData()
    form.append('file', new Blob(['uploaded']), 'ignored.txt')
    const reply = await plain(await sandbox.uploadUrl('up/loaded.txt'), { method: 'POST', body: form })
    assert.equal(reply.status, 200)
    assert.deepEqual(await reply.json(), [{ name: 'loaded.txt', path: '/home/user/up/loaded.txt', type: 'file' }])
    assert.equal(await sandbox.files.read('up/loaded.txt'), 'uploaded')
  }))

test('uploadUrl without a path takes the names of the files', () =>
  withSandbox(async (sandbox) => {
    const form = new FormData()
    form.append('file', new Blob(['1']), 'one.txt')
    form.append('file', new Blob(['2']), '/tmp/sub/two.txt')
    const reply = await plain(await sandbox.uploadUrl(), { method: 'POST', body: form })
    assert.equal(reply.status, 200)
    assert.equal(await sandbox.files.read('one.txt'), '1')
    assert.equal(await sandbox.files.read('/tmp/sub/two.txt'), '2')
  }))

test('uploadUrl takes plain bytes', () =>
  withSandbox(async (sandbox) => {
    const reply = await plain(await sandbox.uploadUrl('raw.bin'), { method: 'POST', body: new Uint8Array([0, 255, 10]), headers: { 'Content-Type': 'application/octet-stream' } })
    assert.equal(reply.status, 200)
    assert.deepEqual([...(await sandbox.files.read('raw.bin', { format: 'bytes' }))], [0, 255, 10])
  }))

test('an address serves for its own file, purpose and user only', () =>
  withSandbox(async (sandbox) => {
    await sandbox.files.write('secret', 'x')
    const read = new URL(await sandbox.downloadUrl('/home/user/secret'))
    const changed = (name, value) => {
      const url = new URL(read)
      url.searchParams.set(name, value)
      return plain(url)
    }
    assert.equal((await plain(read)).status, 200)
    assert.equal((await changed('path', '/etc/passwd')).status, 401)
    assert.equal((await changed('username', 'root')).status, 401)
    assert.equal((await changed('signature', 'v1_AAAA')).status, 401)
    assert.equal((await changed('signature_expiration', '99999999999')).status, 401)
    assert.equal((await plain(read, { method: 'POST', body: 'x', headers: { 'Content-Type': 'application/octet-stream' } })).status, 401)
    assert.equal(await sandbox.files.read('secret'), 'x')
  }))

test('an address can expire', () =>
  withSandbox(async (sandbox) => {
    await sandbox.files.write('brief', 'x')
    const long = await sandbox.downloadUrl('/home/user/brief', { useSignatureExpiration: 120 })
    assert.equal((await plain(long)).status, 200)
    const write = await sandbox.uploadUrl('/home/user/brief', { useSignatureExpiration: 120, user: 'user' })
    const form = new FormData()
    form.append('file', new Blob(['y']), 'brief')
    assert.equal((await plain(write, { method: 'POST', body: form })).status, 200)
    const past = await sandbox.downloadUrl('/home/user/brief', { useSignatureExpiration: -10 })
    assert.equal((await plain(past)).status, 401)
    const stretched = new URL(long)
    stretched.searchParams.set('signature_expiration', String(Number(stretched.searchParams.get('signature_expiration')) + 1000))
    assert.equal((await plain(stretched)).status, 401)
  }))

test('an address ends with its sandbox', async () => {
  const sandbox = await Sandbox.create({ timeoutMs: 60_000 })
  await sandbox.files.write('f', 'x')
  const url = await sandbox.downloadUrl('/home/user/f')
  await sandbox.kill()
  const reply = await plain(url)
  assert.ok(reply.status >= 400, String(reply.status))
})

test('a part of a file can be fetched, and a file only looked at', () =>
  withSandbox(async (sandbox) => {
    await sandbox.files.write('f', '0123456789')
    const url = await sandbox.downloadUrl('/home/user/f')
    const part = await plain(url, { headers: { Range: 'bytes=2-4' } })
    assert.equal(part.status, 206)
    assert.equal(part.headers.get('content-range'), 'bytes 2-4/10')
    assert.equal(await part.text(), '234')
    const head = await plain(url, { method: 'HEAD' })
    assert.equal(head.status, 200)
    assert.equal(head.headers.get('content-length'), '10')
    assert.equal((await plain(url, { headers: { Range: 'bytes=90-' } })).status, 416)
  }))

test('no agreeable encoding is refused', () =>
  withSandbox(async (sandbox) => {
    await sandbox.files.write('f', 'x')
    const { pathname, search } = new URL(await sandbox.downloadUrl('/home/user/f'))
    assert.equal((await request({ path: pathname + search, headers: { 'Accept-Encoding': 'br;q=1, identity;q=0' } })).status, 406)
    assert.equal((await request({ path: pathname + search, headers: { 'Accept-Encoding': 'br' } })).body, 'x')
  }))
