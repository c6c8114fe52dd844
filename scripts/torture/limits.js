// Processes on a machine that ends somewhere: a full disk, no memory, no threads, no descriptors, from the start or from a random
// moment on. Each must succeed to the bit or end with one sentence; without the limit, what it left must resume to the same bits.
import { spawnSync } from 'node:child_process'
import { chmodSync, chownSync, mkdirSync, readdirSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { differs, freshFolder, makeImages, options, temporaries, undisturbed, words } from './place.js'
import { endedBelow, judgeEnd, run } from './process.js'

/** A user who runs nothing else, so that a limit of processes is one of threads. Only root can become that user. */
const NOBODY = 65534
const root = process.getuid() === 0
const MEBIBYTE = 2 ** 20

/** Counts the threads of a user. */
function threadsOf(user) {
  let count = 0
  for (const pid of readdirSync('/proc').filter((name) => /^\d+$/.test(name))) {
    try {
      if (statSync(`/proc/${pid}`).uid === user) count += readdirSync(`/proc/${pid}/task`).length
    } catch {}
  }
  return count
}

/** Mounts a small file system on a folder; resolves to what takes it away, undefined where that is not allowed. */
function smallDisk(folder, kibibytes) {
  if (!root) return undefined
  const { status } = spawnSync('mount', ['-t', 'tmpfs', '-o', `size=${kibibytes}k`, 'tmpfs', folder])
  return status === 0 ? () => spawnSync('umount', ['-l', folder]) : undefined
}

const between = (random, least, most) => Math.round(least + random.next() * (most - least))

const NO_MEMORY = ['OUT_OF_MEMORY']
const NO_DISK = ['DISK_FULL']

/**
 * What each kind limits, by the most that an undisturbed process held, and the codes that tell it; `more`: other options. Address space is
 * taken by V8, sharp and its libraries too, which end a process without a word where there is none left for them: what is limited is
 * mostly what we ask for beyond.
 */
const kinds = {
  fileSize: ({ largest }, random) => ({ codes: NO_DISK, limits: { fsize: between(random, 1, largest) } }),

  fileSizeLater: ({ largest, span }, random) => ({
    ...{ codes: NO_DISK, later: { after: random.next() * span, limits: { fsize: between(random, 1, largest) } } },
  }),

  disk: ({ total }, random) => ({ codes: NO_DISK, disk: between(random, 4, total / 1024) }),

  stdout: () => ({ codes: ['OUTPUT_NOT_WRITABLE'], shell: '"$@" >/dev/full' }),

  memory: ({ most }, random) => ({
    ...{ codes: NO_MEMORY, limits: { as: most.space + between(random, -100, 50) * MEBIBYTE } },
    more: { resolution: 512, batchSize: 4, steps: 1 },
  }),

  memoryOfThreads: ({ most }, random) => ({
    ...{ codes: NO_MEMORY, limits: { as: most.space + between(random, 0, 2000) * MEBIBYTE }, more: { threads: random.pick([64, 1024]) } },
  }),

  /** Node and sharp have their threads, and we a few. */
  processes: ({ most, user }, random) => ({
    ...{ codes: NO_MEMORY, limits: { nproc: threadsOf(user ?? process.getuid()) + most.threads + random.below(20) } },
    ...{ more: { threads: random.pick([16, 64, 1024]) }, user },
  }),

  descriptors: ({ fewest, most }, random) => ({
    codes: ['TOO_MANY_FILES'],
    limits: { nofile: between(random, fewest, most.descriptors + 2) },
  }),

  memoryLater: ({ most, span }, random) => ({
    codes: NO_MEMORY,
    later: { after: random.next() * span, limits: { as: most.space - between(random, 0, 300) * MEBIBYTE } },
  }),
}

/** The fewest descriptors with which Node starts. */
async function fewestDescriptors() {
  for (let nofile = 8; ; nofile += 1) {
    if (spawnSync('prlimit', [`--nofile=${nofile}`, process.execPath, '-e', 'import("node:fs/promises")']).status === 0) return nofile
  }
}

/** nobody, if there is such a user who may run the program. */
function otherUser() {
  if (!root) return undefined
  const { status } = spawnSync(process.execPath, [join(import.meta.dirname, '../../dist/lib/cli/cli.js'), '--help'], {
    uid: NOBODY,
    gid: NOBODY,
  })
  return status === 0 ? NOBODY : undefined
}

export const limits = {
  name: 'limits',
  lanes: 1,
  short: 4,

  async begin(folder) {
    chmodSync(folder, 0o755)
    const images = await makeImages(folder)
    const expected = await undisturbed(folder, images)
    const { most, milliseconds } = await run(['train', ...words(options(images, freshFolder(folder, 'span')))])
    const sizes = readdirSync(expected.output).map((name) => statSync(join(expected.output, name)).size)
    const [largest, total] = [Math.max(...sizes), sizes.reduce((sum, size) => sum + size, 0)]
    return { folder, images, expected, most, span: milliseconds, largest, total }
  },

  async round(context, index, random, count) {
    const { folder, images, expected } = context
    const kind = Object.keys(kinds)[index % Object.keys(kinds).length]
    if (kind === 'descriptors') context.fewest ??= await fewestDescriptors()
    if (kind === 'processes') context.user ??= otherUser()
    const { user } = context
    if (kind === 'processes' && root && user === undefined) return void count('processes left out: no other user')
    const { codes, disk, more = {}, ...how } = kinds[kind](context, random)
    const output = freshFolder(folder, 'output')
    const unmount = disk === undefined ? undefined : smallDisk(output, disk)
    if (disk !== undefined && !unmount) return void count('disk left out: mounting is not allowed')
    if (how.user !== undefined) chownSync(output, how.user, how.user)
    const shown = JSON.stringify({ kind, disk, ...how, ...more })
    try {
      const result = await run(['train', ...words(options(images, output, more))], how)
      if (endedBelow(result)) return void count(`${kind}: ended by Node or sharp itself`)
      const problem = judgeEnd(result)
      if (problem) return `${problem}: ${shown}`
      const [sentence = '', code = 'succeeded'] = /^error (\w+).*/m.exec(result.stderr) ?? []
      count(`${kind}: ${code}`)
      if (result.code !== 0 && !codes.includes(code)) return `another code than ${codes.join(', ')}: ${sentence}: ${shown}`
      const left = temporaries(output)
      if (left.length > 0) return `temporary files are left: ${left}: ${shown}`
      // What was asked for beyond the usual has results of its own.
      if (more.batchSize) return undefined
      const wrong = await differs(output, expected.trajectory, { complete: result.code === 0 })
      if (wrong) return `${wrong}: ${shown}`
    } finally {
      unmount?.()
    }
    if (unmount) mkdirSync(output, { recursive: true })
    const again = await run(['train', ...words(options(images, output, { resume: true }))])
    const wrong = judgeEnd(again) ?? (await differs(output, expected.trajectory))
    return wrong && `without the limit: ${wrong}: ${shown}`
  },
}
