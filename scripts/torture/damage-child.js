// Runs cases of damage by their numbers: each makes one damaged thing and uses it.
import { writeFileSync } from 'node:fs'
import { holds } from './process.js'
import { Random } from './rig.js'
import { makeTargets } from './targets.js'

const [folder, seed] = process.argv.slice(2)
const targets = makeTargets(folder)
const names = Object.keys(await targets)

/** Lets the kernel count the peak of memory anew. */
function resetPeak() {
  try {
    writeFileSync('/proc/self/clear_refs', '5')
  } catch {}
}

process.on('message', async (index) => {
  const name = names[index % names.length]
  resetPeak()
  const before = holds().memory
  let answer
  try {
    answer = await (await targets)[name](new Random(seed, 'damage', index))
  } catch (error) {
    answer = { problem: error.stack ?? String(error) }
  }
  const { outcome = 'failed', problem } = answer
  process.send({ counts: [`${name}: ${outcome}`], problem: problem && `${name}: ${problem}`, peak: holds().peak - before })
})
