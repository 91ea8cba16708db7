// Finding sandboxes: metadata and state filters, order, pages.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Sandbox, allPages, killAfter, unique } from './lib.mjs'

const ids = (items) => items.map((item) => item.sandboxId)

async function three(t) {
  const run = unique()
  const made = []
  for (const color of ['red', 'green', 'green']) {
    made.push(await Sandbox.create({ timeoutMs: 120_000, metadata: { run, color } }))
  }
  killAfter(t, ...made)
  return { run, made }
}

test('list finds a new sandbox and describes it', async (t) => {
  const metadata = { run: unique() }
  const sandbox = await Sandbox.create({ timeoutMs: 60_000, metadata })
  killAfter(t, sandbox)
  const all = await allPages(Sandbox.list())
  const found = all.find((item) => item.sandboxId === sandbox.sandboxId)
  assert.ok(found, 'the new sandbox is not in the list')
  assert.deepEqual(found.metadata, metadata)
  assert.equal(found.state, 'running')
  assert.ok(found.startedAt instanceof Date && found.endAt > found.startedAt)
  assert.equal(found.cpuCount, 2)
  assert.equal(found.memoryMB, 1024)
})

test('list filters by metadata, all keys together', async (t) => {
  const { run, made } = await three(t)
  const byRun = await allPages(Sandbox.list({ query: { metadata: { run } } }))
  assert.deepEqual(ids(byRun).sort(), ids(made).sort())
  const green = await allPages(Sandbox.list({ query: { metadata: { run, color: 'green' } } }))
  assert.deepEqual(ids(green).sort(), ids(made.slice(1)).sort())
  assert.deepEqual(await allPages(Sandbox.list({ query: { metadata: { run, color: 'blue' } } })), [])
})

test('metadata with separators, spaces and other scripts can be searched', async (t) => {
  const metadata = { 'key & more=x': 'a=b&c d+e%20/?ü漢字', run: unique() }
  const sandbox = await Sandbox.create({ timeoutMs: 60_000, metadata })
  killAfter(t, sandbox)
  const found = await allPages(Sandbox.list({ query: { metadata } }))
  assert.deepEqual(ids(found), [sandbox.sandboxId])
  assert.deepEqual(found[0].metadata, metadata)
})

test('list gives the newest first', async (t) => {
  const { run, made } = await three(t)
  const found = await allPages(Sandbox.list({ query: { metadata: { run } } }))
  assert.deepEqual(ids(found), ids(made).reverse())
})

test('list goes through pages of the asked size, each sandbox once', async (t) => {
  const { run, made } = await three(t)
  const pages = Sandbox.list({ query: { metadata: { run } }, limit: 2 })
  assert.equal(pages.hasNext, true)
  const first = await pages.nextItems()
  assert.equal(first.length, 2)
  assert.equal(pages.hasNext, true)
  assert.ok(pages.nextToken)
  const second = await pages.nextItems()
  assert.equal(second.length, 1)
  assert.equal(pages.hasNext, false)
  assert.deepEqual(ids([...first, ...second]), ids(made).reverse())
})

test('a page can be asked for later by its token', async (t) => {
  const { run, made } = await three(t)
  const query = { metadata: { run } }
  const pages = Sandbox.list({ query, limit: 1 })
  await pages.nextItems()
  const later = Sandbox.list({ query, limit: 10, nextToken: pages.nextToken })
  assert.deepEqual(ids(await later.nextItems()), ids(made).reverse().slice(1))
})

test('list filters by state', async (t) => {
  const { run, made } = await three(t)
  const query = { metadata: { run } }
  const running = await allPages(Sandbox.list({ query: { ...query, state: ['running'] } }))
  assert.equal(running.length, made.length)
  assert.deepEqual(await allPages(Sandbox.list({ query: { ...query, state: ['paused'] } })), [])
  const both = await allPages(Sandbox.list({ query: { ...query, state: ['running', 'paused'] } }))
  assert.equal(both.length, made.length)
})

test('a killed sandbox leaves the list at once', async () => {
  const metadata = { run: unique() }
  const sandbox = await Sandbox.create({ timeoutMs: 60_000, metadata })
  await sandbox.kill()
  assert.deepEqual(await allPages(Sandbox.list({ query: { metadata } })), [])
})
