import assert from 'node:assert/strict'
import { readFile } from 'node:fs/promises'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'

const read = (path: string) => readFile(fileURLToPath(new URL(`../../../${path}`, import.meta.url)), 'utf8')

test("CI runs the README's test command as it stands there, then the longer tests", async () => {
  const [command, ...longer] = (await read('.ci/run')).trim().split('\n').slice(-3) as [string, ...string[]]
  assert.match(command, /npm test$/)
  assert.ok((await read('README.md')).includes(`\`\`\`\n${command}\n\`\`\``), command)
  assert.deepEqual(longer, ['npm run test:long', 'npm run test:gpu'])
})

test('every npm script that the README names exists', async () => {
  const { scripts } = JSON.parse(await read('package.json')) as { scripts: Record<string, string> }
  const named = [...(await read('README.md')).matchAll(/npm (?:run ([\w:-]+)|(test))/g)].map(
    ([, script, short]) => (script ?? short) as string,
  )
  assert.ok(named.length > 4)
  for (const script of named) assert.ok(script in scripts, script)
})

test("the lockfile leaves the choice of a registry to the user's npm", async () => {
  assert.doesNotMatch(await read('package-lock.json'), /"resolved"/)
})
