// A short program written with the official npm package e2b, unmodified. It
// needs E2B_API_URL, E2B_SANDBOX_URL and E2B_API_KEY (`eval "$(sandlot env)"`),
// prints each step with its time, and exits with 0 if all of them worked.
import { Sandbox } from 'e2b'

const color = process.stdout.isTTY && !process.env.NO_COLOR
const paint = (code) => (text) => (color ? `\x1b[${code}m${text}\x1b[0m` : text)
const [bold, dim, green, red] = [1, 2, 32, 31].map(paint)

const program = `
import os, platform, time
print("python", platform.python_version(), "as", os.environ["USER_TITLE"], flush=True)
for i in range(1, 4):
    print("tick", i, flush=True)
    time.sleep(0.3)
`

/** Runs one step and prints its name, its time and what it found out. */
async function step(name, fn) {
  const start = performance.now()
  const note = await fn()
  const ms = (performance.now() - start).toFixed(1).padStart(8)
  console.log(`${green('✓')} ${name.padEnd(28)} ${bold(ms)} ms  ${dim(note ?? '')}`)
}

function expect(actual, wanted) {
  if (actual !== wanted) throw new Error(`expected ${JSON.stringify(wanted)}, got ${JSON.stringify(actual)}`)
}

/** Prints streamed output line by line as it arrives, with its age. */
function printer() {
  const start = performance.now()
  return (data) => {
    for (const line of data.trimEnd().split('\n')) {
      console.log(dim(`    ${(performance.now() - start).toFixed(0).padStart(5)} ms │ ${line}`))
    }
  }
}

async function main() {
  let sandbox
  try {
    await step('create a sandbox', async () => {
      sandbox = await Sandbox.create({ envs: { USER_TITLE: 'a guest' }, metadata: { demo: 'yes' }, timeoutMs: 300_000 })
      return sandbox.sandboxId
    })
    await step('first command', async () => {
      const { stdout } = await sandbox.commands.run('uname -sr; whoami')
      return stdout.trim().replaceAll('\n', ', ')
    })
    await step('write a file', async () => (await sandbox.files.write('ticks.py', program)).path)
    await step('run it, output streamed', async () => {
      const { stdout, exitCode } = await sandbox.commands.run('python3 ticks.py', { onStdout: printer() })
      expect(exitCode, 0)
      return `${stdout.trim().split('\n').length} lines`
    })
    await step('write two files at once', async () => {
      const infos = await sandbox.files.writeFiles([
        { path: 'data/hello.txt', data: 'hello, sandbox\n' },
        { path: 'data/numbers.csv', data: 'n,square\n2,4\n3,9\n' },
      ])
      return infos.map((info) => info.name).join(', ')
    })
    await step('read one back', async () => {
      const text = await sandbox.files.read('data/hello.txt')
      expect(text, 'hello, sandbox\n')
      return text.trim()
    })
    await step('list the directory', async () => {
      const names = (await sandbox.files.list('data')).map((entry) => entry.name)
      expect(names.join(), 'hello.txt,numbers.csv')
      return names.join(', ')
    })
    await step('command, sandbox warm', async () => (await sandbox.commands.run('ls -1 data | wc -l')).stdout.trim() + ' files')
  } finally {
    if (sandbox) await step('kill the sandbox', async () => expect(await sandbox.kill(), true))
  }
  expect(await sandbox.isRunning(), false)
}

try {
  console.log(bold('\nThe official e2b SDK against Sandlot\n'))
  await main()
  console.log(green('\nAll steps worked.\n'))
} catch (err) {
  console.error(red(`✗ ${err.name}: ${err.message}`))
  if (err.cause) console.error(red(`  because: ${err.cause.message ?? err.cause}`))
  process.exitCode = 1
}
