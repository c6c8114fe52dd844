/** Models of the Hugging Face Hub: found in the cache that Python's tools share, or fetched into it. */
import { statfs } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout } from 'node:timers/promises'
import { bytesOf, LorafuseError } from '../errors.js'
import type { ModelEvent } from '../events.js'
import { makeFolder, writeError } from '../files/atomic.js'
import { type Json, readRecord } from '../files/json.js'
import { Lock } from '../files/lock.js'
import { exists, unlessMissing } from '../files/read.js'
import { ConfigReader } from './configs.js'
import { foreignModel, foreignPipeline, foreignUNet } from './families.js'
import { CachedRepository, type HubFile, sizeOf } from './hub/cache.js'
import { HubClient } from './hub/client.js'
import { damageOf, fetchBlob, fetchedBytes } from './hub/download.js'
import { chooseFiles, INDEX, partsOf } from './hub/files.js'
import { Meter } from './hub/meter.js'
import { type HubName, parseHubName, WEIGHTS } from './hub/name.js'
import { type HubSettings, hubSettings } from './hub/settings.js'

export interface HubContext {
  signal?: AbortSignal | undefined
  /** Told what is fetched and how far it is, and warnings. */
  onEvent?: ((event: ModelEvent) => void) | undefined
  /** The environment's by default. */
  settings?: HubSettings
}

/** How often a folder is looked at that another process fetches. */
const WAIT_MS = 500
/** The codes of errors that a damaged file may be the cause of. */
const DAMAGES = ['MODEL_INVALID', 'SAFETENSORS_INVALID', 'PICKLE_INVALID', 'TOKENIZER_INVALID']

/** One resolution of a name. */
class Resolution {
  private readonly cached: CachedRepository
  private readonly client: HubClient

  constructor(
    readonly name: HubName,
    private readonly settings: HubSettings,
    private readonly context: HubContext,
  ) {
    this.cached = new CachedRepository(settings.cache, name.repository)
    this.client = new HubClient(settings, name.repository, context.signal)
  }

  private path(commit: string): string {
    const folder = this.cached.snapshot(commit)
    return this.name.file === undefined ? folder : join(folder, this.name.file)
  }

  /** Finds the model in the cache, without the network; undefined unless all of it is there. */
  private async find(): Promise<string | undefined> {
    const commit = await this.cached.commitOf(this.name.revision)
    if (commit === undefined) return undefined
    const path = this.path(commit)
    if (this.name.file !== undefined) return (await sizeOf(path)) === undefined ? undefined : path
    const damaged = () => new LorafuseError('MODEL_INVALID', '')
    const index = await unlessMissing(readRecord(join(path, INDEX), 'a model', damaged)).catch((): Json => ({}))
    const chosen = chooseFiles(await this.cached.files(commit), undefined, partsOf(index ?? {}))
    return 'files' in chosen ? path : undefined
  }

  private offline(): LorafuseError {
    const { repository, revision, file = 'a diffusers model' } = this.name
    const expected = `Expected all of ${file} of ${repository} at ${revision} in the cache ${this.settings.cache}, as HF_HUB_OFFLINE is set,`
    return new LorafuseError('HUB_OFFLINE', `${expected} but received none or a part; unset it once to fetch the rest`)
  }

  /** Lists the files that are wanted of a commit. */
  private async wanted(commit: string): Promise<HubFile[]> {
    const { repository, revision, file } = this.name
    const files = await this.client.filesOf(commit)
    const paths = [...files.keys()]
    if (file !== undefined) {
      const found = files.get(file)
      if (found) return [found]
      throw new LorafuseError(
        'HUB_NOT_FOUND',
        `Expected the file ${file} in ${repository} at ${revision} but received none; correct the name`,
      )
    }
    const here = new Set<string>()
    for (const { path, etag, size } of files.values()) if (await this.cached.has(etag, size)) here.add(path)
    const chosen = chooseFiles(paths, (path) => here.has(path))
    if ('files' in chosen) {
      // Small ones first, so that a refusal comes early.
      return chosen.files.map((path) => files.get(path)!).sort((a, b) => a.size - b.size)
    }
    const [checkpoint] = paths.filter((path) => /^[^/]+\.(safetensors|ckpt)$/.test(path))
    const advice = checkpoint === undefined ? 'use another model or revision' : `name a checkpoint in it, as in ${repository}/${checkpoint}`
    const message = `Expected a diffusers model in ${repository} at ${revision} but received none of ${chosen.missing}; ${advice}`
    throw new LorafuseError('HUB_NO_MODEL', message)
  }

  private async checkRoom(bytes: number): Promise<void> {
    const { folder } = this.cached
    const found = await statfs(folder).catch(() => undefined)
    const free = found ? found.bavail * found.bsize : Infinity
    if (bytes <= free) return
    const message = `Expected ${bytesOf(bytes)} of room in ${folder} for ${this.name.repository} but received ${bytesOf(free)}`
    throw new LorafuseError('DISK_FULL', `${message}; free some space, or set HF_HOME to another disk`)
  }

  /** Refuses a model of no known family before its weights are fetched. */
  private async checkUNet(commit: string): Promise<void> {
    if (this.name.file !== undefined) return
    const path = join(this.path(commit), 'unet', 'config.json')
    const invalid = (received: string) => new LorafuseError('MODEL_INVALID', `Expected a JSON object for ${path} but received ${received}`)
    const foreign = foreignUNet(new ConfigReader(path, await readRecord(path, "the UNet's config", invalid)))
    if (foreign !== undefined) throw foreignModel(this.name.repository, foreign)
  }

  private async fetch(): Promise<string> {
    const { repository, revision } = this.name
    const { commit, pipeline } = await this.client.about(revision)
    const foreign = pipeline === undefined ? undefined : foreignPipeline(pipeline)
    if (foreign !== undefined && this.name.file === undefined) throw foreignModel(repository, foreign)
    await this.fetchFiles(commit, await this.wanted(commit))
    await this.cached.note(revision, commit)
    return this.path(commit)
  }

  /** Fetches those of a commit's files that are not there. */
  private async fetchFiles(commit: string, wanted: HubFile[]): Promise<void> {
    const { cached, client } = this
    const { signal, onEvent } = this.context
    const { repository } = this.name
    const rest: HubFile[] = []
    const [blobs, snapshot] = [join(cached.folder, 'blobs'), cached.snapshot(commit)]
    for (const folder of [blobs, snapshot]) await makeFolder(folder).catch((cause: unknown) => Promise.reject(writeError(folder, cause)))
    let resumedBytes = 0
    for (const file of wanted) {
      if ((await sizeOf(join(snapshot, file.path))) === file.size || (await cached.has(file.etag, file.size))) continue
      rest.push(file)
      resumedBytes += await fetchedBytes(cached.blob(file.etag), file)
    }
    // What other commits brought, or a process that was killed, counts as fetched.
    for (const file of wanted) if (!rest.includes(file)) await cached.link(commit, file, false)
    if (rest.length === 0) return
    const bytes = rest.reduce((sum, { size }) => sum + size, 0)
    await this.checkRoom(bytes - resumedBytes)
    onEvent?.({ type: 'download-start', repository, commit, files: rest.length, bytes, resumedBytes, folder: cached.folder })
    const meter = new Meter(resumedBytes, bytes, onEvent)
    const details = { client, signal, stallMs: this.settings.stallMs, onBytes: (count: number) => meter.add(count) }
    const weights = rest.filter(({ path }) => WEIGHTS.test(path))
    for (const file of [...rest.filter((file) => !weights.includes(file)), ...weights]) {
      if (file === weights[0]) await this.checkUNet(commit)
      meter.file = file.path
      // Two files of the same content have one blob.
      if (await cached.has(file.etag, file.size)) meter.add(file.size)
      else await fetchBlob(file, client.address(commit, file.path), cached.blob(file.etag), details)
      await cached.link(commit, file, true)
    }
  }

  /** Takes the repository's lock, unless another process has it and `isDone` finds meanwhile that it is not needed. */
  private async lock<Done>(isDone: () => Promise<Done | undefined>): Promise<Lock | Done> {
    const { signal, onEvent } = this.context
    const { repository } = this.name
    const path = join(this.cached.locks, 'lorafuse.lock')
    await makeFolder(this.cached.locks).catch((cause: unknown) => Promise.reject(writeError(path, cause)))
    for (let tries = 0; ; tries++) {
      try {
        return await Lock.take(path, `download of ${repository}`, signal)
      } catch (error) {
        signal?.throwIfAborted()
        if ((error as { code?: string }).code !== 'OUTPUT_LOCKED') throw error
        const message = `Another process fetches ${repository}; this one waits for it`
        if (tries === 0) onEvent?.({ type: 'warning', code: 'HUB_BUSY', message, path })
        await setTimeout(WAIT_MS, undefined, { signal }).catch(() => signal?.throwIfAborted())
      }
      const done = await isDone()
      if (done !== undefined) return done
    }
  }

  /**
   * Fetches files again that are not in the cache as the Hub lists them, as after a disk's failure: those of another size or, if there are
   * none, of another hash. Returns whether there were any; without the Hub nothing is known. Throws as `run` what fetching them does.
   */
  async fetchDamaged(): Promise<boolean> {
    const { cached, client, settings, name } = this
    const { signal } = this.context
    const commit = await cached.commitOf(name.revision)
    if (commit === undefined || settings.offline) return false
    const unlessAborted = () => signal?.throwIfAborted()
    const lock = await this.lock(async () => undefined).catch(unlessAborted)
    if (!lock) return false
    try {
      const listed = await client.filesOf(commit).catch(unlessAborted)
      const paths = name.file === undefined ? await cached.files(commit) : [name.file]
      const files = paths.flatMap((path) => listed?.get(path) ?? [])
      const short = await this.discardDamaged(commit, files, false)
      const damaged = short.length > 0 ? short : await this.discardDamaged(commit, files, true)
      await this.fetchFiles(commit, damaged)
      return damaged.length > 0
    } finally {
      await lock.release()
    }
  }

  /** Takes the damaged ones of a commit's files out of the cache, and returns them. */
  private async discardDamaged(commit: string, files: HubFile[], withHashes: boolean): Promise<HubFile[]> {
    const { signal, onEvent } = this.context
    const damaged: HubFile[] = []
    for (const file of files) {
      const path = join(this.cached.snapshot(commit), file.path)
      const damage = await damageOf(path, file, withHashes, signal)
      if (damage === undefined) continue
      await this.cached.discard(commit, file)
      const message = `Expected ${file.path} of ${this.name.repository} in the cache as the Hub has it but received ${damage}; it is fetched again`
      onEvent?.({ type: 'warning', code: 'CACHE_DAMAGED', message, path })
      damaged.push(file)
    }
    return damaged
  }

  async run(): Promise<string> {
    const found = await this.find()
    if (found !== undefined) return found
    if (this.settings.offline) throw this.offline()
    const lock = await this.lock(() => this.find())
    if (typeof lock === 'string') return lock
    try {
      return (await this.find()) ?? (await this.fetch())
    } finally {
      await lock.release()
    }
  }
}

/**
 * Returns the path of a model of the Hub (a diffusers folder, or a checkpoint where the name is that of a file) in the cache, which it is
 * fetched into if it is not there; undefined for what cannot be a name on the Hub. Throws `HUB_NOT_FOUND`, `HUB_DENIED`, `HUB_UNREACHABLE`,
 * `HUB_OFFLINE`, `HUB_FAILED`, `HUB_INTERRUPTED`, `HUB_DAMAGED`, `HUB_NO_MODEL`, `MODEL_UNSUPPORTED`, `DISK_FULL`, `OUTPUT_NOT_WRITABLE`, `OPTION_INVALID`, and the
 * signal's reason.
 */
export async function resolveHubModel(text: string, context: HubContext = {}): Promise<string | undefined> {
  const settings = context.settings ?? (await hubSettings())
  const name = parseHubName(text, settings.endpoint)
  return name && new Resolution(name, settings, context).run()
}

/** What resolves a name on the Hub; undefined for a path. `files`: only the name of a file counts. */
async function resolutionOf(model: string, context: HubContext, files: boolean): Promise<Resolution | undefined> {
  if (await exists(model, 'a model')) return undefined
  const settings = context.settings ?? (await hubSettings())
  const name = parseHubName(model, settings.endpoint)
  return name && !(files && name.file === undefined) ? new Resolution(name, settings, context) : undefined
}

/**
 * After a model from the Hub could not be read: fetches again what of it is damaged in the cache. `models`: what was read, as in
 * `locateModel`. Returns whether there was anything. Throws as `resolveHubModel`.
 */
export async function fetchDamaged(
  error: unknown,
  models: { model: string; files: boolean }[],
  context: HubContext = {},
): Promise<boolean> {
  if (!(error instanceof LorafuseError) || !DAMAGES.includes(error.code)) return false
  let found = false
  for (const { model, files } of models) {
    const resolution = await resolutionOf(model, context, files)
    if (await resolution?.fetchDamaged()) found = true
  }
  return found
}

/** Where a model is, and what it is called. */
export interface Located {
  path: string
  /** The repository of a folder from the Hub, whose own name says nothing. */
  name?: string
}

/**
 * Finds a model by its path or, where there is nothing, by its name on the Hub; with `files` only the name of a file counts. Throws as
 * `resolveHubModel` and `exists`.
 */
export async function locateModel(model: string, context: HubContext = {}, files = false): Promise<Located> {
  const resolution = await resolutionOf(model, context, files)
  if (!resolution) return { path: model }
  const path = await resolution.run()
  return resolution.name.file === undefined ? { path, name: resolution.name.repository } : { path }
}
