// What can be damaged, and how it is used: each target makes one damaged thing and resolves to `{ outcome, problem }`.
import { copyFileSync, mkdirSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs'
import { isAbsolute, join } from 'node:path'
import sharp from 'sharp'
import { generate, Pipeline, readHeader, readTensors, readTexts, train } from '../../dist/lib/index.js'
import { damageBytes, damageJson, damageJsonText, damageSafetensors, joinSafetensors } from './mutations.js'
import { differs, freshFolder, makeImages, model, options, undisturbed } from './place.js'
import { judge, judgeError } from './rig.js'

const JSON_FILES = [
  'unet/config.json',
  'vae/config.json',
  'text_encoder/config.json',
  'scheduler/scheduler_config.json',
  'model_index.json',
]
const TOKENIZER_FILES = ['tokenizer/tokenizer_config.json', 'tokenizer/vocab.json', 'tokenizer/merges.txt']
const WEIGHT_FILES = ['unet', 'vae'].map((name) => `${name}/diffusion_pytorch_model.safetensors`).concat('text_encoder/model.safetensors')

/** Makes a model whose file has other bytes; everything else of it is linked. */
function otherModel(folder, file, bytes) {
  const made = freshFolder(folder, 'model')
  for (const name of readdirSync(model, { recursive: true, withFileTypes: true })) {
    const path = join(name.parentPath, name.name)
    const to = join(made, path.slice(model.length))
    if (name.isDirectory()) mkdirSync(to, { recursive: true })
  }
  for (const name of readdirSync(model, { recursive: true, withFileTypes: true })) {
    const path = join(name.parentPath, name.name)
    if (name.isFile() && !path.endsWith(file)) symlinkSync(path, join(made, path.slice(model.length)))
  }
  writeFileSync(join(made, file), bytes)
  return made
}

/** Does what a target asks; an error must be ours. `after` judges a success. */
async function outcomeOf(use, after = () => undefined) {
  let result
  try {
    result = await use()
  } catch (error) {
    return { outcome: error?.code ?? 'no code', problem: judgeError(error) }
  }
  const problem = await after(result)
  return { outcome: 'used', problem }
}

/** Collects warnings, and judges them. */
function listener() {
  const warnings = []
  let problem
  const onEvent = (event) => {
    if (event.type !== 'warning') return
    warnings.push(event.code)
    problem ??= judge(event.code, event.message)
  }
  return { onEvent, warnings, problem: () => problem }
}

/** Why a LoRA file that was applied should not have been in silence; undefined if it is sound. */
async function unsound(path) {
  const tensors = await readTensors(path)
  for (const [name, { data }] of tensors) if (data.some((value) => !Number.isFinite(value))) return `${name} is not finite`
  return undefined
}

const drawing = { prompt: 'a bell', steps: 1, width: 64, height: 64, threads: 1, device: 'cpu', cfg: 1 }

/** Prepares all targets in a folder. */
export async function makeTargets(folder) {
  const images = await makeImages(freshFolder(folder))
  process.chdir(freshFolder(folder, 'a/b/c'))
  const expected = await undisturbed(folder, images, { steps: 2 })
  const state = readFileSync(expected.statePath)
  const lora = readFileSync(join(expected.output, 'x.safetensors'))
  const plain = join(folder, 'x.safetensors')
  const output = join(folder, 'output')
  const pipeline = await Pipeline.open({ model, device: 'cpu', precision: 'auto', threads: 1 })
  const sources = await pictures(join(images, 'bell.png'))

  /** Trains on images and captions for a step. */
  async function trainOn(folderOfImages, more = {}) {
    const heard = listener()
    const given = options(folderOfImages, freshFolder(output), { steps: 1, saveEvery: 0, ...more })
    return outcomeOf(
      () => train(given, { onEvent: heard.onEvent }),
      () => heard.problem(),
    )
  }

  /** A folder of one sound image and others. */
  function withSound(files) {
    const made = freshFolder(folder, 'damaged images')
    for (const kind of ['png', 'txt']) copyFileSync(join(images, `bell.${kind}`), join(made, `bell.${kind}`))
    for (const [name, bytes] of Object.entries(files)) writeFileSync(join(made, name), bytes)
    return made
  }

  /** Draws with a LoRA file. */
  async function drawWith(path) {
    const heard = listener()
    const result = await outcomeOf(
      () => generate({ model, ...drawing, lora: [path] }, { onEvent: heard.onEvent }),
      async () => {
        const reason = await unsound(path)
        return heard.problem() ?? (reason && heard.warnings.length === 0 ? `drawn without a word, though ${reason}` : undefined)
      },
    )
    return result
  }

  return {
    async state(random) {
      const bytes = damageSafetensors(state, random)
      const path = expected.statePath.replace(expected.output, folder)
      mkdirSync(join(path, '..'), { recursive: true })
      writeFileSync(path, bytes)
      const given = options(images, freshFolder(output), { steps: 2, resume: path })
      return outcomeOf(
        () => train(given),
        async () => {
          if (bytes.equals(state)) return undefined
          const keys = ['ss_session_id', 'ss_training_started_at', 'ss_steps']
          const [before, after] = await Promise.all([expected.path, join(output, 'x.safetensors')].map(readHeader))
          const key = keys.find((key) => before.metadata[key] !== after.metadata[key])
          return key ? `a resumed run with another ${key}` : differs(output, expected.trajectory)
        },
      )
    },

    /** Applying is quick; what may be silent is drawn too. */
    async lora(random) {
      writeFileSync(plain, damageSafetensors(lora, random))
      const applied = await outcomeOf(() => {
        pipeline.loras?.clear()
        return pipeline.apply([{ path: plain, te: 1, unet: 1 }])
      })
      if (applied.problem || applied.outcome !== 'used') return applied
      return (await unsound(plain)) || random.chance(0.1) ? drawWith(plain) : applied
    },

    async peft(random) {
      const { bytes, config } = peftFile()
      const made = freshFolder(folder, 'peft')
      const path = join(made, 'adapter_model.safetensors')
      const which = random.below(2)
      writeFileSync(path, which === 0 ? damageSafetensors(bytes, random) : bytes)
      writeFileSync(join(made, 'adapter_config.json'), which === 1 ? damageJsonText(config, random) : config)
      return drawWith(path)
    },

    async config(random) {
      const file = random.pick(JSON_FILES)
      const made = otherModel(folder, file, damageJsonText(readFileSync(join(model, file), 'utf8'), random))
      const result = random.chance(0.5)
        ? await trainOn(images, { model: made, batchSize: 1 })
        : await outcomeOf(() => generate({ ...drawing, model: made }))
      return { ...result, problem: result.problem && `${file}: ${result.problem}` }
    },

    async tokenizer(random) {
      const file = random.pick(TOKENIZER_FILES)
      const bytes = readFileSync(join(model, file))
      const damaged = file.endsWith('.json') ? damageJsonText(bytes.toString(), random) : damageBytes(bytes, random)
      return outcomeOf(() => generate({ ...drawing, model: otherModel(folder, file, damaged) }))
    },

    async weights(random) {
      const file = random.pick(WEIGHT_FILES)
      const made = otherModel(folder, file, damageSafetensors(readFileSync(join(model, file)), random))
      return random.chance(0.5) ? trainOn(images, { model: made, batchSize: 1 }) : outcomeOf(() => generate({ ...drawing, model: made }))
    },

    async image(random) {
      const files = {}
      for (let i = 0; i < 4; i++) {
        const kind = random.pick(Object.keys(sources))
        files[`${i}.${random.chance(0.8) ? kind : random.pick(Object.keys(sources))}`] = damageBytes(sources[kind], random)
      }
      const result = await trainOn(withSound(files))
      return result.outcome === 'used' ? result : { ...result, problem: result.problem ?? `${result.outcome}, though one image is sound` }
    },

    async caption(random) {
      const text = random.pick([
        'a bell, gold',
        'x, '.repeat(20_000),
        'ä\u0301\u200d🎨'.repeat(500),
        '\ufeffa\r\nb',
        '(a:1.2) BREAK {b|c} <lora:x:1>',
      ])
      const bytes = random.chance(0.5) ? Buffer.from(text) : damageBytes(Buffer.from(text), random)
      const name = random.pick(['a.txt', 'a.caption', 'A.TXT', 'a.png.txt', 'b.txt', 'a.json'])
      return trainOn(withSound({ 'a.png': sources.png, [name]: bytes }))
    },

    /** Names of folders and files. */
    async folder(random) {
      const made = freshFolder(folder, 'damaged folders')
      const name = random.pick([
        '2_a',
        '0_a',
        '-1_a',
        '1e3_a',
        '20240115_holiday',
        `${'9'.repeat(30)}_a`,
        '3_',
        '_a',
        ' 2_a',
        'a',
        '2_\u202e',
        '2_a\nb',
      ])
      mkdirSync(join(made, name))
      for (const file of readdirSync(images)) copyFileSync(join(images, file), join(made, name, file))
      if (random.chance(0.5))
        copyFileSync(join(images, 'bell.png'), join(made, random.pick(['bell.png', 'BELL.PNG', 'x\ny.png', 'x.jpeg'])))
      return trainOn(random.chance(0.2) ? join(made, name) : made)
    },

    async options(random) {
      const sound = options(images, freshFolder(output), { steps: 1, saveEvery: 0, alpha: 2, clipSkip: 1 })
      const damaged = damageJson(sound, random)
      // Nothing may be written beside the folder of the test: relative paths lead into it.
      const elsewhere = typeof damaged?.output === 'string' && isAbsolute(damaged.output)
      const given = elsewhere ? { ...damaged, output: sound.output } : damaged
      // Nobody waits for what was asked for.
      return outcomeOf(() => train(given, { signal: AbortSignal.timeout(2000) }))
    },

    async prompt(random) {
      const tags = [
        '<lora:x:1>',
        '<lora:x:0.5:2>',
        '<lora:zz',
        '<lora:>',
        '<lora:x:1e999>',
        '<lora:../x:1>',
        '<lora::1>',
        '<lora:\0:1>',
        '<LORA:x:1>',
      ]
      const prompt = `a bell ${random.pick(tags)}${random.chance(0.3) ? random.pick(tags) : ''} ${random.pick(['', 'x'.repeat(1e5), '\ud800', '\0'])}`
      writeFileSync(plain, lora)
      return outcomeOf(() =>
        generate({ ...drawing, model, loraDir: folder, prompt: random.chance(0.2) ? damageJson([prompt], random) : prompt }),
      )
    },

    async texts(random) {
      const bytes = damageBytes(sources.png, random)
      return outcomeOf(async () => readTexts(bytes))
    },
  }

  /** A small LoRA in PEFT's layout, as PEFT saves it: a folder with a config. */
  function peftFile() {
    const path = 'base_model.model.mid_block.attentions.0.transformer_blocks.0.attn2.to_k'
    const [rank, inputs, outputs] = [2, 32, 40]
    const data = Buffer.from(Float32Array.from({ length: rank * (inputs + outputs) }, (_, i) => Math.sin(i)).buffer)
    const middle = 4 * rank * inputs
    const header = {
      [`${path}.lora_A.weight`]: { dtype: 'F32', shape: [rank, inputs], data_offsets: [0, middle] },
      [`${path}.lora_B.weight`]: { dtype: 'F32', shape: [outputs, rank], data_offsets: [middle, data.length] },
    }
    const config = {
      peft_type: 'LORA',
      r: rank,
      lora_alpha: 4,
      target_modules: ['to_k'],
      use_rslora: false,
      rank_pattern: {},
      alpha_pattern: {},
    }
    return { bytes: joinSafetensors(header, data), config: JSON.stringify({ ...config, bias: 'none', use_dora: false }) }
  }
}

/** A picture in every format. */
async function pictures(path) {
  const small = sharp(path).resize(64, 64)
  const kinds = ['png', 'jpeg', 'webp', 'gif', 'tiff', 'avif']
  return Object.fromEntries(await Promise.all(kinds.map(async (kind) => [kind, await small.clone().toFormat(kind).toBuffer()])))
}
