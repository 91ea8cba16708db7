// Names of files that need quoting somewhere on the way, and encodings.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { sdk, withSandbox } from './lib.mjs'

const names = [
  'say "hi".txt', "it's.txt", '100%.txt', 'a%20b', 'back\\slash', 'ends with\\', 'semi;colon=1', 'two\nlines', 'ünï 😀', ' spaces ', '-rf', '#1?x=y&z', '+plus+', '~tilde',
]

test('odd names survive writing several files in one request', () =>
  withSandbox(async ({ files, commands }) => {
    const written = await files.writeFiles(names.map((name, i) => ({ path: `/tmp/odd/${name}`, data: `content ${i}` })))
    assert.deepEqual(written.map((f) => f.path), names.map((name) => `/tmp/odd/${name}`))
    for (const [i, name] of names.entries()) assert.equal(await files.read(`/tmp/odd/${name}`), `content ${i}`)
    assert.deepEqual((await files.list('/tmp/odd')).map((e) => e.name).sort(), [...names].sort())
    assert.equal((await commands.run('ls -A1Q /tmp/odd | wc -l')).stdout.trim(), String(names.length))
    for (const name of names) {
      assert.equal((await files.getInfo(`/tmp/odd/${name}`)).name, name)
      assert.equal((await files.rename(`/tmp/odd/${name}`, `/tmp/moved/${name}`)).path, `/tmp/moved/${name}`)
      await files.remove(`/tmp/moved/${name}`)
      assert.equal(await files.exists(`/tmp/moved/${name}`), false)
    }
  }))

test('odd names survive writing one file', () =>
  withSandbox(async ({ files }) => {
    for (const name of [...names, 'literal %22']) {
      assert.equal((await files.write(`/tmp/odd/${name}`, name)).path, `/tmp/odd/${name}`)
      assert.equal(await files.read(`/tmp/odd/${name}`), name)
    }
  }))

test('gzip both ways gives what was written', () =>
  withSandbox(async ({ files }) => {
    const text = 'compress me, '.repeat(100_000)
    await files.write('/tmp/zipped', text, { gzip: true })
    assert.equal(await files.read('/tmp/zipped'), text)
    assert.equal(await files.read('/tmp/zipped', { gzip: true }), text)
    await files.write('/tmp/empty', '')
    assert.equal(await files.read('/tmp/empty', { gzip: true }), '')
  }))

test('a full disk is an error of its own', () =>
  withSandbox(async ({ files }) => {
    await assert.rejects(files.write('/dev/full', 'x'), sdk.NotEnoughSpaceError)
  }))
