/** Every option of the library, one row each: flags, aliases, checks, types, help and docs/options.md are made from these tables. */
import { availableParallelism } from 'node:os'
import { card } from './cards.js'
import { kohyaScheduler, type LrSchedulerName, lrSchedulerNames } from './lr-schedulers.js'
import { defaulted, optional, required, rowsOf } from './rows.js'
import { foldSampler, samplerAliases, samplerNames } from './samplers.js'
import {
  baseName,
  choice,
  colour,
  flag,
  integer,
  jsonFile,
  list,
  lora,
  memorySize,
  number,
  path,
  pngFile,
  resolution,
  resumeFrom,
  several,
  text,
} from './values.js'

/** The unit of `maxTokenLength`: the tokens of a chunk, without BOS and EOS. */
export const CHUNK_TOKENS = 75

/** The largest seed of a 32-bit generator, as kohya's. */
const MAX_SEED = 2 ** 32 - 1

/** kohya's names for schedulers that have two. */
const schedulerAliases = Object.fromEntries(
  lrSchedulerNames.flatMap((name) => {
    const alias = kohyaScheduler(name, 1)
    return alias === name ? [] : [[alias, name]]
  }),
) as Record<string, LrSchedulerName>

const machine = {
  device: defaulted(
    choice(['auto', 'cuda', 'cpu'], { gpu: 'cuda' }),
    'auto',
    'Device to compute on; auto is the first CUDA GPU, or the CPU if there is none. CUDA_VISIBLE_DEVICES chooses another GPU',
  ),
  precision: defaulted(
    choice(['auto', 'f32', 'fp16', 'bf16'], { no: 'f32', fp32: 'f32', f16: 'fp16' }),
    'auto',
    'Mixed precision: the data type of activations and frozen weights on a GPU (auto is fp16, bf16 needs Ampere or newer). ' +
      'On the CPU activations are f32 and this is the type of frozen weights (auto is f32: as in the file); bf16 makes products faster ' +
      'where the processor has avx512_bf16',
    { kohya: ['mixed_precision'] },
  ),
  threads: defaulted(integer({ min: 1, max: 1024 }), availableParallelism, 'CPU threads; the result does not depend on them', {
    defaultText: 'all processors',
  }),
}

/** Networks apart from the model. */
const vae = optional(path, "VAE in place of the model's: a file (safetensors or a pickle), a folder, or owner/name/file on the Hub", {
  defaultText: "the model's",
  kohya: ['vae'],
})
const textEncoder = optional(list(path), "Text encoder in place of the model's: a file or a folder; repeat it for the two of SDXL", {
  defaultText: "the model's",
})

const files = {
  model: required(
    path,
    'Base model of Stable Diffusion 1.x, 2.x or XL: a folder in the diffusers layout, a checkpoint in one file, or owner/name on the Hugging Face Hub',
    {
      kohya: ['pretrained_model_name_or_path'],
    },
  ),
  vae,
  textEncoder,
  images: required(path, 'Folder of training images with .txt or .caption files beside them, or with N_class subfolders (N repeats)', {
    kohya: ['train_data_dir'],
  }),
  output: defaulted(path, 'output', 'Folder for the LoRA, its checkpoints and training states', { kohya: ['output_dir'] }),
  name: defaulted(baseName, 'lora', 'Base name of the LoRA file, <output>/<name>.safetensors', { kohya: ['output_name'] }),
}

const side = integer({ min: 8, max: 8192 })
/** All of them change the result: see `fixed`. */
const images = {
  resolution: defaulted(resolution, 512, 'Training resolution in pixels; a bucket has at most resolution² of them', {
    kohya: ['resolution'],
  }),
  buckets: defaulted(flag, true, 'Aspect ratio buckets; without them, every image is cropped to a square', { kohya: ['enable_bucket'] }),
  bucketMin: defaulted(side, 256, 'Minimum side of a bucket in pixels', { kohya: ['min_bucket_reso'] }),
  bucketMax: defaulted(side, 1024, 'Maximum side of a bucket in pixels', { kohya: ['max_bucket_reso'] }),
  bucketStep: defaulted(integer({ min: 8, max: 1024, step: 8 }), 64, 'Bucket sides are multiples of this many pixels', {
    kohya: ['bucket_reso_steps'],
  }),
  bucketNoUpscale: defaulted(flag, false, 'Make a bucket for each image without upscaling it', { kohya: ['bucket_no_upscale'] }),
  randomCrop: defaulted(flag, false, 'Crop at a random position instead of the centre', { kohya: ['random_crop'] }),
  flip: defaulted(flag, false, 'Horizontal flip augmentation: mirror images at random', { kohya: ['flip_aug'] }),
  background: defaulted(colour, [255, 255, 255], 'Background colour for transparent images', { defaultText: 'white' }),
}

const captions = {
  captionExtension: optional(text, 'Extension of caption files', { defaultText: '.txt, else .caption', kohya: ['caption_extension'] }),
  strict: defaulted(flag, false, 'Stop if a file would be skipped, instead of warning'),
}

const length = {
  steps: defaulted(integer({ min: 1 }), 1600, 'Optimizer steps to train', { kohya: ['max_train_steps'] }),
  epochs: optional(integer({ min: 1 }), 'Epochs to train, instead of steps', { kohya: ['max_train_epochs'] }),
}

const prediction = {
  predictionType: optional(
    choice(['epsilon', 'v_prediction'], { v: 'v_prediction', 'v-prediction': 'v_prediction', eps: 'epsilon' }),
    'What the model predicts: the noise, or v',
    { defaultText: 'what the model says' },
  ),
  zeroTerminalSnr: optional(flag, 'Zero terminal SNR: nothing of an image is left at the last timestep', {
    defaultText: 'what the model says',
    kohya: ['zero_terminal_snr'],
  }),
}

const rate = number({ min: 0, max: 1 })
const MOST_TEXT_ENCODERS = 2

/** All of them change the result: see `fixed`. */
const training = {
  batchSize: defaulted(integer({ min: 1, max: 1024 }), 1, 'Images per batch', { kohya: ['train_batch_size'] }),
  gradientAccumulation: defaulted(integer({ min: 1, max: 1024 }), 1, 'Batches accumulated per optimizer step', {
    kohya: ['gradient_accumulation_steps'],
  }),
  rank: defaulted(integer({ min: 1, max: 4096 }), 16, 'Rank of the LoRA', { kohya: ['network_dim'] }),
  alpha: optional(number({ min: 0, max: 1e6 }), 'Alpha of the LoRA, which is scaled by alpha / rank; 0 means the rank', {
    defaultText: 'the rank',
    kohya: ['network_alpha'],
  }),
  convRank: optional(
    integer({ min: 1, max: 4096 }),
    'Rank of the LoRA on 3×3 convolutions (LoCon); with it the other layers of the resnets get a LoRA, too, of the rank',
    { defaultText: 'none: convolutions get no LoRA', networkArg: 'conv_dim' },
  ),
  convAlpha: optional(number({ min: 0, max: 1e6 }), 'Alpha of the LoRA on 3×3 convolutions; 0 means their rank', {
    defaultText: 'the rank of convolutions',
    networkArg: 'conv_alpha',
  }),
  targets: defaulted(
    choice(['default', 'attention']),
    'default',
    "Layers of the UNet's transformer blocks that get a LoRA: default is kohya's (attention, feed-forward, projections), " +
      'attention is only q, k, v and out',
  ),
  learningRate: defaulted(rate, 1e-4, 'Learning rate', { kohya: ['learning_rate'] }),
  textEncoderLr: optional(
    several(rate, MOST_TEXT_ENCODERS),
    'Learning rate of the text encoders, which are trained then; two rates for those of SDXL, of which one may be 0',
    { defaultText: 'not trained', kohya: ['text_encoder_lr'] },
  ),
  networkTrainUnetOnly: optional(flag, 'Train the UNet alone, as where text encoders have no learning rate', {
    kohya: ['network_train_unet_only'],
  }),
  networkTrainTextEncoderOnly: optional(flag, 'Train the text encoders alone', { kohya: ['network_train_text_encoder_only'] }),
  stopTextEncoderTraining: optional(integer({ min: 1 }), 'Steps after which the text encoders stay as they are', {
    kohya: ['stop_text_encoder_training'],
  }),
  lrScheduler: defaulted(
    choice(lrSchedulerNames, schedulerAliases),
    'constant',
    'Learning rate scheduler, after the warmup; cosine decays to 0',
    { kohya: ['lr_scheduler'] },
  ),
  lrWarmupSteps: defaulted(integer({ min: 0 }), 0, 'Warmup steps, over which the learning rate rises from 0', {
    kohya: ['lr_warmup_steps'],
  }),
  weightDecay: defaulted(number({ min: 0, max: 1 }), 0.01, 'Weight decay of AdamW'),
  maxGradNorm: defaulted(number({ min: 0, max: 1e9 }), 1, 'Maximum gradient norm for clipping; 0 turns clipping off', {
    kohya: ['max_grad_norm'],
  }),
  clipSkip: defaulted(
    integer({ min: 1, max: 64 }),
    1,
    'Use the output of this layer of the text encoder, counted from the last; SDXL always takes the last but one, for which 1 and 2 stand',
    { kohya: ['clip_skip'] },
  ),
  maxTokenLength: defaulted(
    integer({ min: CHUNK_TOKENS, max: 3 * CHUNK_TOKENS, step: CHUNK_TOKENS }),
    CHUNK_TOKENS,
    'Tokens of a caption that are used: 75, 150 or 225, in chunks of 75 that are encoded apart',
    { kohya: ['max_token_length'] },
  ),
  ...prediction,
  seed: defaulted(integer({ min: 0, max: MAX_SEED }), 0, 'Random seed', { kohya: ['seed'] }),
}

/** Instead of a folder, as nothing is known of the images but their number. */
const imageCount = optional(
  integer({ min: 1, max: 1e7 }),
  'Plan for so many square images of the resolution, each with a caption of its own, instead of a folder',
)

/** It need not be there: nothing runs. */
const gpu = optional(
  card,
  'Plan for this card, such as "RTX 2080 Ti" or "RTX 3080 12 GB", whatever this machine has; its time is an estimate',
  {
    defaultText: "this machine's device",
  },
)

const saving = {
  saveEvery: defaulted(integer({ min: 0 }), 500, 'Save a checkpoint and its training state every N steps; 0 turns this off', {
    kohya: ['save_every_n_steps'],
  }),
  saveEveryEpochs: optional(integer({ min: 1 }), 'Save a checkpoint and its training state every N epochs', {
    kohya: ['save_every_n_epochs'],
  }),
  savePrecision: defaulted(
    choice(['fp16', 'bf16', 'f32'], { float: 'f32', fp32: 'f32', f16: 'fp16' }),
    'fp16',
    'Data type of the saved LoRA',
    { kohya: ['save_precision'] },
  ),
  networkFormat: defaulted(
    choice(['kohya', 'peft']),
    'kohya',
    "Names in the LoRA file: kohya's, which all tools read, or those of diffusers and PEFT, with alpha multiplied in",
  ),
  resume: optional(resumeFrom, 'Resume from a training state; without a path, from the newest one of this name in the output folder', {
    kohya: ['resume'],
  }),
}

const memory = {
  gradientCheckpointing: defaulted(
    flag,
    false,
    'Compute parts of the networks again in the backward pass instead of keeping them: far less memory, more time; on the CPU, the same result',
    { kohya: ['gradient_checkpointing'] },
  ),
  fit: optional(
    memorySize,
    'Stay within so much memory, of the GPU or of the process: as few parts are computed again as that takes; auto: what is free',
    { defaultText: 'keep all, or compute all again with gradientCheckpointing' },
  ),
}

const profile = optional(
  jsonFile,
  'Time each op of one step, the third or the last if there are fewer, and write a trace for ui.perfetto.dev; the result stays the same',
  { defaultText: 'none' },
)

export const trainGroups = {
  Files: files,
  Images: { ...images, ...captions },
  Training: { ...length, ...training },
  Saving: saving,
  Machine: { ...machine, ...memory, profile },
}
export const trainTable = rowsOf(trainGroups)

/** Nothing is read but the model's headers and the sizes of images, and nothing is written. */
export const planGroups = {
  ...trainGroups,
  Files: { ...files, images: optional(files.images.kind, files.images.help, { kohya: files.images.kohya! }), imageCount },
  Machine: { gpu, ...trainGroups.Machine },
}
export const planTable = rowsOf(planGroups)

/** Names the options that change the result, so that those of a resumed run must mean the same. */
export const fixed = Object.keys({ ...images, ...training, precision: machine.precision }) as (keyof typeof trainTable)[]

const image = {
  model: files.model,
  vae,
  textEncoder,
  prompt: required(list(text), 'Prompt; repeat it for several images. <lora:name:0.8> in a prompt applies that LoRA to it'),
  negativePrompt: defaulted(text, '', 'Negative prompt'),
  lora: defaulted(list(lora), [], 'LoRA file to apply, with its weight as in file:0.8; repeat it to combine several', {
    defaultText: 'none',
  }),
  loraDir: optional(path, 'Folder where <lora:name:1> finds name.safetensors', {
    defaultText: "the image's folder, the current one, output",
  }),
  compare: defaulted(flag, false, 'One image with a row per prompt: without the LoRAs on the left, with them on the right'),
  output: optional(pngFile, 'PNG file to write; several prompts without compare get numbered files. The library writes none by default', {
    defaultText: 'image.png',
  }),
}

const sampling = {
  sampler: defaulted(
    choice(samplerNames, samplerAliases, foldSampler),
    'DDIM',
    "Sampler, by A1111's name; case, blanks and underscores do not matter",
  ),
  steps: defaulted(integer({ min: 1, max: 1000 }), 30, 'Sampling steps'),
  cfg: defaulted(number({ min: 1, max: 100 }), 7, 'CFG scale (classifier-free guidance); 1 turns guidance off'),
  seed: defaulted(integer({ min: 0, max: MAX_SEED }), 0, 'Random seed'),
  width: optional(integer({ min: 8, max: 8192, step: 8 }), 'Width of the image in pixels', { defaultText: "the model's own" }),
  height: optional(integer({ min: 8, max: 8192, step: 8 }), 'Height of the image in pixels', { defaultText: "the model's own" }),
  clipSkip: training.clipSkip,
  ...prediction,
}

export const generateGroups = { Image: image, Sampling: sampling, Machine: machine }
export const generateTable = rowsOf(generateGroups)

/** Values of one axis of the bench. */
const MOST_VALUES = 16
const grid = {
  rank: defaulted(several(integer({ min: 1, max: 4096 }), MOST_VALUES), [4, 16, 64], 'Ranks of the LoRA, one after the other', {
    defaultText: '4 16 64',
  }),
  targets: defaulted(several(training.targets.kind, 2), ['default'], 'Which layers get a LoRA, as in train', { defaultText: 'default' }),
  resolution: defaulted(several(resolution, MOST_VALUES), [512], 'Sides of the square images in pixels', { defaultText: '512' }),
  batchSize: defaulted(several(integer({ min: 1, max: 1024 }), MOST_VALUES), [1, 2], 'Images per batch', { defaultText: '1 2' }),
  gradientCheckpointing: defaulted(
    several(choice(['off', 'on']), 2),
    ['off', 'on'],
    'Whether parts of the networks are computed again in the backward pass: off, on, or both',
    { defaultText: 'off on' },
  ),
}
const measurement = {
  steps: defaulted(integer({ min: 1, max: 1000 }), 5, 'Steps to time in each row, after the warmup; the median counts'),
  quick: defaulted(
    flag,
    false,
    'A small grid of few steps, at 256 pixels, in place of the defaults; each row times steps for ten seconds at most',
  ),
}

/** Latents and texts are random: no images are needed. */
export const benchGroups = { Model: { model: files.model, vae, textEncoder }, Grid: grid, Measurement: measurement, Machine: machine }
export const benchTable = rowsOf(benchGroups)

/** With `quick`, what an option that was not given is. */
export const quickDefaults = { rank: [4, 16], resolution: [256], batchSize: [1], gradientCheckpointing: ['off' as const], steps: 2 }
