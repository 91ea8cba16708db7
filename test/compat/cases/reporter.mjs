// A reporter for node --test: one JSON object per line and test, which the Go
// test that runs the cases turns into its own subtests.
import { basename } from 'node:path'

/** The error a test threw, with what it was caused by and where. */
function describe(err) {
  const thrown = err?.cause ?? err
  const text = thrown?.stack ?? String(thrown)
  return thrown?.cause ? `${text}\ncaused by ${thrown.cause.stack ?? thrown.cause}` : text
}

function result(type, data) {
  const skipped = data.skip !== undefined && data.skip !== false
  return {
    kind: skipped ? 'skip' : type === 'test:pass' ? 'pass' : 'fail',
    file: basename(data.file ?? '', '.test.mjs'),
    name: data.name,
    ms: data.details.duration_ms,
    message: type === 'test:fail' ? describe(data.details.error) : skipped ? String(data.skip) : '',
  }
}

export default async function* report(events) {
  for await (const { type, data } of events) {
    if (type === 'test:pass' || type === 'test:fail') {
      // A file whose tests failed is reported once more as a test of its own.
      const ofFile = data.nesting === 0 && data.name === data.file
      if (!ofFile || data.details.error?.code !== 'ERR_TEST_FAILURE' || data.details.error?.failureType !== 'subtestsFailed') {
        yield JSON.stringify(result(type, data)) + '\n'
      }
    } else if (type === 'test:stderr' || type === 'test:stdout') {
      yield JSON.stringify({ kind: 'note', message: data.message.trimEnd() }) + '\n'
    }
  }
}
