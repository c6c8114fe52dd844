// Checkpoints in one file whose bytes are anything: headers, zips, pickles; a thousand rounds are 100,000 files.
import { availableParallelism } from 'node:os'
import { join } from 'node:path'
import { asanEnvironment, Patient } from './damage.js'

/** What reading a file may take beyond its own few kilobytes, most of it garbage of the files before. */
const MOST_MEMORY = 128 * 2 ** 20
/** ASan keeps what was freed. */
const MOST_WITH_ASAN = 2 * MOST_MEMORY

export const checkpoints = {
  name: 'checkpoints',
  lanes: availableParallelism(),
  short: 3,

  async begin(folder, { seed, asan }) {
    const environment = asan ? asanEnvironment(folder) : undefined
    const patient = (lane) => new Patient('./checkpoints-child.js', [join(folder, `checkpoint ${lane}`), seed], environment)
    return { patients: Array.from({ length: this.lanes }, (_, lane) => patient(lane)), most: asan ? MOST_WITH_ASAN : MOST_MEMORY }
  },

  async round({ patients, most }, index, _random, count, lane) {
    const { counts, problem, peak } = await patients[lane].treat(index)
    for (const what of counts) count(what)
    return problem ?? (peak > most ? `${Math.round(peak / 2 ** 20)} MiB of memory` : undefined)
  },

  async end({ patients }) {
    for (const patient of patients) patient.stop()
    return []
  },
}
