/** The states in a folder: which is the newest, and which are no longer needed. */
import { rm } from 'node:fs/promises'
import { join } from 'node:path'
import { LorafuseError } from '../errors.js'
import { writeError } from '../files/atomic.js'
import { isFolder, listFolder } from '../files/read.js'
import type { Label, ResolvedTrainOptions } from '../options/resolve.js'
import { type About, type RunId, readAbout, STATE_SUFFIX, WHAT } from './state.js'

/** How many states of a run are kept. */
const KEPT = 2

/** In the order in which they were written, and the errors of those that cannot be read. */
interface States {
  states: (About & { path: string })[]
  damaged: LorafuseError[]
}

/** Those of version 1 do not know when they were written, which was after their run began. */
const writtenAt = (state: About) => state.writtenAt ?? state.startedAt

/** Lists the states of the run of a name. The file of epoch 1 of a run `x` is named as the last of one `x-000001`: there, they say whose they are. */
export async function listStates(output: string, name: string): Promise<States> {
  const files = await listFolder(output, 'a folder of training states')
  const { states, damaged }: States = { states: [], damaged: [] }
  for (const file of files.filter((file) => file.startsWith(name) && STATE_SUFFIX.test(file.slice(name.length)))) {
    const path = join(output, file)
    try {
      const { about } = await readAbout(path)
      if ((about.name ?? name) === name) states.push({ ...about, path })
    } catch (error) {
      if (!(error instanceof LorafuseError)) throw error
      damaged.push(error)
    }
  }
  states.sort((a, b) => writtenAt(a) - writtenAt(b) || a.step - b.step)
  return { states, damaged }
}

/**
 * Finds the state of a name that was written last, if there is any. Throws `FILE_UNREADABLE`, or `STATE_INVALID` if one is damaged, as it
 * may have been the newest.
 */
export async function newestState(output: string, name: string): Promise<string | undefined> {
  const { states, damaged } = await listStates(output, name)
  if (damaged[0]) throw damaged[0]
  return states.at(-1)?.path
}

/** Finds the state that a run is to go on from, if there is any. Throws as `newestState`, and `FILE_UNREADABLE` for a folder. */
export async function stateToResume(
  { resume, output, name }: Pick<ResolvedTrainOptions, 'resume' | 'output' | 'name'>,
  label: Label,
): Promise<string | undefined> {
  if (resume === true) return newestState(output, name)
  if (resume === undefined || resume === false) return undefined
  if (!(await isFolder(resume, WHAT))) return resume
  const advice = `name a .state file in it, or leave the path out for the newest of ${name} in ${output}`
  throw new LorafuseError('FILE_UNREADABLE', `Expected ${WHAT} for ${label('resume')} but received the folder ${resume}; ${advice}`)
}

/** Returns the time at which a state is written now: the clock's, but later than that of every state that is there. */
export function timeToWrite({ states }: States): number {
  const last = states.at(-1)
  return Math.max(Date.now() / 1000, last === undefined ? 0 : writtenAt(last) + 0.001)
}

/**
 * Removes the states of a run that were there before it wrote another, `written`, but for the last, so that two are kept; those of other
 * runs stay. Throws `OUTPUT_NOT_WRITABLE`.
 */
export async function removeOldStates({ states }: States, { sessionId }: RunId, written: string): Promise<void> {
  const before = states.filter((state) => state.sessionId === sessionId && state.path !== written)
  for (const { path } of before.slice(0, Math.max(0, before.length - KEPT + 1))) {
    await rm(path, { force: true }).catch((cause: unknown) => {
      throw writeError(path, cause)
    })
  }
}
