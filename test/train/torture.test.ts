import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { join } from 'node:path'
import { test } from 'node:test'
import { long } from '../long.js'
import { root } from './golden.js'

const parts = {
  soak: 'a process that trains, draws, stops, resumes and fails holds no more at the end, and its results are the same bits',
  workers: 'worker threads that end at random moments leave nothing, and what they saved resumes to the same bits',
  signals: 'a training that gets signals at random moments and is resumed ends in the bits of one that is left alone',
  limits: 'without disk, memory, threads or descriptors a training ends with one sentence, and resumes to the same bits',
  checkpoints: 'headers of safetensors, zips and pickles of any bytes are refused with one sentence, or read, in little memory',
  damage: 'damaged states, LoRAs, models, images, captions and options are refused with one sentence, or used',
}

for (const [part, what] of Object.entries(parts)) {
  test(what, () => {
    const words = [join(root, 'scripts/torture/torture.js'), '--only', part, '--short', long ? '2' : '1']
    const { status, stdout, stderr } = spawnSync(process.execPath, words, { encoding: 'utf8' })
    assert.equal(status, 0, stdout + stderr)
    assert.match(stdout, new RegExp(`^${part}: .*\\b\\d+ rounds`, 'm'))
  })
}
