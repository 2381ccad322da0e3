#compdef swarmctl
# Completion of swarmctl for zsh.
# Made by `python -m tools.completions` from the command tree of swarmctl; do not edit.
#
# This script starts no process and never evaluates file names: names come from globbing.

# Set REPLY to the directory of $1 (profiles or nodes): under SWARMCTL_HOME if it is set, otherwise under $2.
_swarmctl_directory() {
  local home=${SWARMCTL_HOME-}
  [[ $home == \~ || $home == \~/* ]] && home=$HOME${home#\~}
  REPLY=${home:-$HOME/$2}/$1
}

_swarmctl_nodes() {
  local REPLY expl
  _swarmctl_directory nodes .local/share/swarmctl
  local -a names=($REPLY/*(N-/:t))
  names=(${names:#*[[:cntrl:]]*})
  _wanted nodes expl node compadd -a names
}

_swarmctl_profile_names() {
  local REPLY expl
  _swarmctl_directory profiles .config/swarmctl
  local -aU names=(cpu default demo gpu mac smol $REPLY/*.toml(N:t:r))
  names=(${names:#*[[:cntrl:]]*})
  _wanted profiles expl profile compadd -a names
}

_swarmctl_profiles() {
  _swarmctl_profile_names || _files -g '*.toml'
}

_swarmctl_settings() {
  local expl key=${PREFIX%%\=*}
  local -a list
  if ! compset -P 1 '*='; then
    list=(
      'checkpoint.every:Rounds between checkpoints'
      'checkpoint.keep:Checkpoints kept'
      'eval.canary:Whether a significant fall in accuracy restores the last good weights and quarantines the peers and providers that the node has learned from since'
      'eval.every:Rounds between evaluations'
      'eval.questions:Number of held-out questions, which only this node knows'
      'game.curriculum:Start with easier questions than the tasks'\'' parameters ask for: where a new node answers some correctly'
      'game.format_reward:Reward for a completion in exactly the requested format, in addition to the outcome, until the node follows the format'
      'game.group_size:G: completions per question'
      'game.groups:I: questions per round'
      'game.kind:"sampling": one stage, I local groups and J groups from peers (swarm sampling, arXiv 2509.08721)'
      'game.partial_credit:Use the verifier'\''s partial credit for near misses'
      'game.refill:How many extra questions a round may ask'
      'game.rest:For how many passes over a fixed set (jsonl, gsm8k) a question is skipped, if all or none of the node'\''s completions were correct the last two times'
      'game.role:Role that the node plays in "study-group"'
      'game.rounds:Total rounds of the node, over all runs'
      'generation.batch:Completions generated at a time, on each GPU'
      'generation.max_completion_tokens:Maximum tokens per completion; longer ones are cut'
      'generation.max_prompt_tokens:Maximum tokens per prompt'
      'generation.temperature:Sampling temperature'
      'hub.every:Rounds between pushes'
      'hub.private:Whether a new repository is private'
      'hub.repo:Repository on the Hugging Face hub, OWNER/NAME'
      'journal.keep_rounds:Rounds whose prompts and completions are kept, about 0.5 MB each; older ones are deleted'
      'judge.instructions:What to grade, from 0 to 10'
      'judge.max_tokens:Maximum tokens per grade, in addition to hidden reasoning'
      'judge.model:Model at the provider'
      'judge.provider:A built-in provider, or the NAME of your [providers.NAME]'
      'judge.weight:Reward for the best grade'
      'model.device:cpu, mps, xpu, cuda, a numbered device such as cuda:1, or "auto": the best of CUDA, MPS, XPU and CPU'
      'model.dtype:Number format of the computation'
      'model.fused_kernels:Compute with Liger'\''s kernels, which are faster on NVIDIA GPUs'
      'model.gradient_checkpointing:Recompute activations in the backward pass: less memory, about a third slower'
      'model.load_in_4bit:Load the frozen weights under adapters (model.lora) in 4 bits: a quarter of the memory, slower, less precise'
      'model.lora:Train adapters (LoRA) instead of all weights'
      'model.lora.alpha:Scale: the update is multiplied by alpha / rank'
      'model.lora.dropout:Dropout on the adapter'\''s input while training'
      'model.lora.rank:Rank r of the update B·A'
      'model.lora.targets:Modules with an adapter: "all-linear", or names separated by commas'
      'model.name:A causal language model: a Hugging Face id, a directory, "smollm2" (SmolLM2-135M-Instruct, 93 MB from the Python package index), or "tiny" (built locally, for the demo)'
      'model.revision:Branch, tag or commit on the Hugging Face hub'
      'model.thinking:Turns the chat template'\''s thinking mode on or off (Qwen3 and others)'
      'model.threads:PyTorch'\''s CPU threads'
      'node.fresh:Start over at every run'
      'node.name:Name of the node and of its directory'
      'node.seed:Seed of sampling and of adapter weights'
      'offload.ahead:Rounds for which completions are requested in advance, while earlier rounds still train'
      'offload.batch:Use the provider'\''s Batch API: half the price, answers within 24 hours'
      'offload.fallback:What generates while the provider is unavailable, in order: providers, or "local"'
      'offload.key:Where to read the API key from'
      'offload.kind:What the API'\''s text counts as, which decides how the node learns from it'
      'offload.limits.concurrency:Maximum requests in flight'
      'offload.limits.requests_per_minute:Maximum requests per minute'
      'offload.limits.timeout:Seconds after which a request times out'
      'offload.limits.tokens_per_minute:Maximum tokens per minute, prompts and completions together'
      'offload.limits.usd:The most this node may spend in total, in USD, over all runs and providers'
      'offload.limits.usd_per_day:The most this node may spend per day (UTC), in USD'
      'offload.max_tokens:Maximum tokens per completion from the API'
      'offload.model:Model at the provider'
      'offload.on_limit:What to do when a cap is reached: stop, or generate locally'
      'offload.prices:Prices by provider'
      'offload.provider:A built-in provider, or the NAME of your [providers.NAME]'
      'offload.reasoning_effort:How much a reasoning model thinks'
      'offload.reasoning_tokens:Maximum tokens for hidden reasoning per completion, in addition to offload.max_tokens'
      'offload.rounds:Rounds in which the API generates, counted from 0: "*", "0-9,20-29", "100-" or "every 3"'
      'offload.service_tier:"flex": cheaper, and slower when the service is busy'
      'offload.serving.arguments:Further arguments for the server that the node starts, such as --gpu-memory-utilization=0.3 for vLLM'
      'offload.serving.command:The program of a server that the node starts, watches and stops, such as vllm, sglang or /opt/vllm/bin/vllm'
      'offload.serving.engine:The engine that the servers run'
      'offload.serving.folder:Directory for what is pushed, which the servers must be able to read'
      'offload.serving.gpu:The NVIDIA GPU for the server that the node starts, as nvidia-smi counts'
      'offload.serving.server_folder:The path of the same directory on the servers, such as in a container'
      'offload.serving.turns:Whether the server and the node take turns on one GPU: the server sleeps, and has given its memory back, unless it generates'
      'offload.serving.urls:Base URLs of all replicas of the server, such as http://192.168.1.20:8000/v1'
      'offload.share:Share of each group that the API generates'
      'offload.stages:Stages in which the API generates'
      'offload.teach:What a teacher contributes'
      'offload.when:When the API generates'
      'prompt.examples:Questions of the same task that each prompt shows with their answers'
      'prompt.style:The format asked for: reasoning and answer in tags, only an answer tag, \boxed{}, or just the answer'
      'prompt.system:Whether the instruction is a system turn (true) or part of the question'\''s turn (false)'
      'providers:'
      'report.events_mb:MB of events.jsonl and its older parts that are kept: about 20,000 rounds'
      'report.metrics_address:Address to listen on for Prometheus'
      'report.metrics_port:Port at which Prometheus can fetch the node'\''s metrics (/metrics) while it runs'
      'report.to:Any of "tensorboard" and "trackio" (dashboards on this machine, from files in the node'\''s directory), and "wandb"'
      'supervision.hang_after:Seconds without a sign of life after which the trainer counts as hung'
      'supervision.keep_awake:Keep a Mac on mains power from falling asleep while the node runs (`caffeinate`)'
      'supervision.max_restarts:Restarts in a row before the node gives up'
      'supervision.restart:Whether the trainer is restarted after a crash, a hang or a full disk'
      'swarm.announce:Addresses at which peers reach this node, such as /ip4/203.0.113.7/tcp/4001'
      'swarm.external:J: groups from peers that each step of the game "sampling" learns from'
      'swarm.join:Invitation to a swarm: swarm1:HASH@ADDRESS,…'
      'swarm.loopback:Accept connections from this machine only'
      'swarm.port:Port to listen on'
      'swarm.relay:Let peers with a public address forward connections to nodes that cannot be reached directly'
      'tasks:'
      'train.beta:Weight of the KL penalty on the node'\''s own rows'
      'train.learning_rate:Peak learning rate of AdamW'
      'train.max_grad_norm:Gradients are clipped to this norm'
      'train.max_lag:Rows of the node'\''s own policy that are older than this many steps are dropped'
      'train.micro_batch:Rows per forward and backward pass'
      'train.off_policy_weight:λ: weight of an external row, relative to one of the node'\''s own'
      'train.optimizer:AdamW'
      'train.peer_loss:Loss on peers'\'' groups: correct completions only, weighted by 1 - this node'\''s pass rate; both signs of advantage (arXiv 2509.08721); or filtered truncated importance sampling (arXiv 2605.22537)'
      'train.processes:Processes that train the node together, each with a GPU of its own: `run --gpus N`'
      'train.shard:Divide weights, gradients and optimizer state among the processes, instead of keeping a copy in each, so that a larger model fits into several GPUs (PyTorch'\''s FSDP2, arXiv 2304.11277)'
      'train.teacher_learning_rate:Peak learning rate of steps that learn only from a teacher: supervised learning'
      'train.teacher_loss:Loss on a teacher'\''s verified text: supervised learning, or policy shaping (arXiv 2504.14945)'
      'train.warmup_steps:Steps over which the learning rate rises'
      'train.weight_decay:Decoupled weight decay'
      'warm_start.batch:Answers per step'
      'warm_start.examples:Examples in the prompts of the answers'
      'warm_start.steps:Maximum optimizer steps, at train.learning_rate'
      'warmup.batch:Demonstrations per step'
      'warmup.learning_rate:Learning rate of the warm-up'
      'warmup.steps:Optimizer steps'
    )
    _describe -t settings setting list -S = -q
    return
  fi
  case $key in
    eval.canary) list=(true false) ;;
    game.curriculum) list=(true false) ;;
    game.kind) list=(sampling study-group) ;;
    game.partial_credit) list=(true false) ;;
    game.role) list=(none pirate knight mobster announcer founder random) ;;
    generation.batch) list=(auto) ;;
    hub.private) list=(true false) ;;
    judge.provider) list=(off openai deepseek openrouter groq together mistral gemini xai fireworks cerebras vllm sglang llamacpp ollama lmstudio transformers litellm) ;;
    model.device) list=(auto cpu cuda mps xpu) ;;
    model.dtype) list=(auto float32 bfloat16 float16) ;;
    model.fused_kernels) list=(auto true false) ;;
    model.gradient_checkpointing) list=(true false) ;;
    model.load_in_4bit) list=(true false) ;;
    model.lora) list=(true false) ;;
    model.name) list=(tiny smollm2) ;;
    model.thinking) list=(true false) ;;
    node.fresh) list=(true false) ;;
    offload.batch) list=(true false) ;;
    offload.key) list=(auto key_file environment credentials keyring file) ;;
    offload.kind) list=(auto policy policy_text teacher relay) ;;
    offload.limits.usd) list=(unlimited) ;;
    offload.on_limit) list=(stop local) ;;
    offload.provider) list=(off openai deepseek openrouter groq together mistral gemini xai fireworks cerebras vllm sglang llamacpp ollama lmstudio transformers litellm) ;;
    offload.reasoning_effort) list=(none minimal low medium high xhigh max) ;;
    offload.service_tier) list=(default flex) ;;
    offload.serving.engine) list=(vllm sglang auto) ;;
    offload.serving.turns) list=(auto on off) ;;
    offload.teach) list=(answers hints distillation) ;;
    offload.when) list=(always failed) ;;
    prompt.examples) list=(auto) ;;
    prompt.style) list=(auto tags answer-tag boxed plain) ;;
    prompt.system) list=(true false) ;;
    supervision.keep_awake) list=(true false) ;;
    supervision.restart) list=(auto on-failure never) ;;
    swarm.loopback) list=(true false) ;;
    swarm.relay) list=(true false) ;;
    tasks) list=(ab acre aiw arc_1d arc_agi base_conversion basic_arithmetic bf binary_alternation binary_matrix bitwise_arithmetic caesar_cipher calendar_arithmetic chain_sum circuit_logic coin_flip color_cube_rotation count_bits count_primes course_schedule decimal_arithmetic decimal_chain_sum dice emoji_mystery family_relationships figlet_font fraction_simplification futoshiki game_of_life game_of_life_halting gcd group_anagrams gsm8k gsm_symbolic isomorphic_strings jsonl largest_island lcm leg_counting letter_counting letter_jumble mahjong_puzzle manipulate_matrix maze mini_sudoku modulo_grid n_queens needle_haystack number_filtering number_format number_sequence number_sorting palindrome_generation path_star power_function prime_factorization products propositional_logic python-file ransom_note rearc rectangle_count rotate_matrix rotten_oranges sapo self_reference sentence_reordering simple_equations simple_geometry spell_backward spiral_matrix string_insertion string_manipulation string_splitting string_synthesis sudoku survo syllogism tsumego word_sequence_reversal word_sorting zebra_puzzles) ;;
    train.micro_batch) list=(auto) ;;
    train.optimizer) list=(adamw adamw-8bit) ;;
    train.peer_loss) list=(positive sapo f_tis) ;;
    train.shard) list=(true false) ;;
    train.teacher_loss) list=(gated luffy) ;;
    *) _message value; return 1 ;;
  esac
  _wanted values expl value compadd -a list
}

_swarmctl() {
  local curcontext=$curcontext state line ret=1
  local -a list
  typeset -A opt_args
  _arguments -C \
    '(-V --version)-V[Print the version and exit]' \
    '(-V --version)--version[Print the version and exit]' \
    '(-h --help)-h[Show this message and exit]' \
    '(-h --help)--help[Show this message and exit]' \
    '(-): :->command' \
    '(-)*:: :->rest' && ret=0
  case $state in
    command)
      list=(
        'init:Set up a node with a few questions, and start it'
        'run:Start or resume a node'
        'attach:Watch a running node'
        'doctor:Check your setup and suggest fixes'
        'backup:Save a whole node to a file'
        'restore:Restore a node from a backup'
        'upgrade:Bring an older node'\''s files to the current format'
        'quarantine:Show which peers and providers a node does not learn from'
        'status:Show the state of the nodes on this machine'
        'stop:Save and stop running nodes'
        'restart:Stop nodes and start them again in the background'
        'rename:Rename a node'
        'fork:Create a node that continues from another'\''s checkpoint'
        'rm:Delete nodes and everything they learned'
        'logs:Print what a node did: rounds, evaluations, warnings and errors'
        'report:Write a page that shows what nodes learned, and at what cost'
        'models:List a provider'\''s models, cheapest first'
        'sample:Show what a node'\''s model answers'
        'chat:Chat with a node'\''s model'
        'eval:Measure how often a model answers correctly'
        'export:Export a node'\''s model for other programs'
        'replay:Repeat a training step and compare its result'
        'launch:Print a file that starts nodes on other machines'
        'profiles:Manage profiles, the files that configure a node'
        'keys:Save, list, test and delete API keys'
        'tasks:List tasks, look at their questions, and try answers'
        'rollouts:Show, export and count a node'\''s rollouts'
        'swarm:Create a swarm, invite others and see who is in it'
        'identity:Show, create, back up and restore node identities'
        'service:Run nodes as services, which start after a reboot'
        'completion:Set up Tab completion for bash, zsh and fish'
      )
      _describe -t commands command list && ret=0
      ;;
    rest)
      case $words[1] in
        init) _swarmctl__init && ret=0 ;;
        run) _swarmctl__run && ret=0 ;;
        attach) _swarmctl__attach && ret=0 ;;
        doctor) _swarmctl__doctor && ret=0 ;;
        backup) _swarmctl__backup && ret=0 ;;
        restore) _swarmctl__restore && ret=0 ;;
        upgrade) _swarmctl__upgrade && ret=0 ;;
        quarantine) _swarmctl__quarantine && ret=0 ;;
        status|ps) _swarmctl__status && ret=0 ;;
        stop) _swarmctl__stop && ret=0 ;;
        restart) _swarmctl__restart && ret=0 ;;
        rename) _swarmctl__rename && ret=0 ;;
        fork) _swarmctl__fork && ret=0 ;;
        rm) _swarmctl__rm && ret=0 ;;
        logs) _swarmctl__logs && ret=0 ;;
        report) _swarmctl__report && ret=0 ;;
        models) _swarmctl__models && ret=0 ;;
        sample) _swarmctl__sample && ret=0 ;;
        chat) _swarmctl__chat && ret=0 ;;
        eval) _swarmctl__eval && ret=0 ;;
        export) _swarmctl__export && ret=0 ;;
        replay) _swarmctl__replay && ret=0 ;;
        launch) _swarmctl__launch && ret=0 ;;
        profiles|profile) _swarmctl__profiles && ret=0 ;;
        keys|key) _swarmctl__keys && ret=0 ;;
        tasks) _swarmctl__tasks && ret=0 ;;
        rollouts) _swarmctl__rollouts && ret=0 ;;
        swarm) _swarmctl__swarm && ret=0 ;;
        identity) _swarmctl__identity && ret=0 ;;
        service) _swarmctl__service && ret=0 ;;
        completion) _swarmctl__completion && ret=0 ;;
      esac
      ;;
  esac
  return ret
}

_swarmctl__init() {
  _arguments -S \
    '--no-input[Never prompt; fail if input is required]' \
    '(-h --help)-h[Show this message and exit]' \
    '(-h --help)--help[Show this message and exit]'
}

_swarmctl__run() {
  _arguments -S \
    '(-p --profile)-p+[Profile name or .toml file]:PROFILE:_swarmctl_profiles' \
    '(-p --profile)--profile=[Profile name or .toml file]:PROFILE:_swarmctl_profiles' \
    '--node=[Node name]:NODE:_swarmctl_nodes' \
    '*--task=[Task, preset, or path of your questions]:TASK:(ab acre aiw arc_1d arc_agi base_conversion basic_arithmetic bf binary_alternation binary_matrix bitwise_arithmetic caesar_cipher calendar_arithmetic chain_sum circuit_logic coin_flip color_cube_rotation count_bits count_primes course_schedule decimal_arithmetic decimal_chain_sum dice emoji_mystery family_relationships figlet_font fraction_simplification futoshiki game_of_life game_of_life_halting gcd group_anagrams gsm8k gsm_symbolic isomorphic_strings jsonl largest_island lcm leg_counting letter_counting letter_jumble mahjong_puzzle manipulate_matrix maze mini_sudoku modulo_grid n_queens needle_haystack number_filtering number_format number_sequence number_sorting palindrome_generation path_star power_function prime_factorization products propositional_logic python-file ransom_note rearc rectangle_count rotate_matrix rotten_oranges sapo self_reference sentence_reordering simple_equations simple_geometry spell_backward spiral_matrix string_insertion string_manipulation string_splitting string_synthesis sudoku survo syllogism tsumego word_sequence_reversal word_sorting zebra_puzzles)' \
    '--model=[Hugging Face model id or local directory]:MODEL:_files -/' \
    '--device=[auto, cpu, cuda, cuda\:1, mps or xpu]:DEVICE:(auto cpu cuda mps xpu)' \
    '--gpus=[Train and generate on the first N NVIDIA GPUs]:N: ' \
    '--rounds=[Total rounds of the node; 0\: until you stop it]:N: ' \
    '--seed=[Seed of sampling and adapter weights]:N: ' \
    '--offload=[API to generate with\: a provider, a server'\''s URL, or off]:PROVIDER\[\:MODEL\]:(off openai deepseek openrouter groq together mistral gemini xai fireworks cerebras vllm sglang llamacpp ollama lmstudio transformers litellm)' \
    '--serve=[Start a server of this node'\''s weights\: vllm, sglang, or a path]:COMMAND:_files' \
    '--max-usd=[The most the node may spend in total, or unlimited]:USD:(unlimited)' \
    '--join=[Join a swarm; see `swarmctl swarm invite`]:INVITATION: ' \
    '*--set=[Change any setting (repeatable)]:KEY=VALUE:_swarmctl_settings' \
    '--fresh[Start over\: delete what the node learned]' \
    '--dry-run[Show the plan; change nothing]' \
    '--all[With --dry-run\: also show all settings]' \
    '(-d --detach)-d[Continue in the background once the node has started]' \
    '(-d --detach)--detach[Continue in the background once the node has started]' \
    '--restart=[Restart a trainer that fails\: on-failure, never, or auto (with --detach)]:WHEN:(auto on-failure never)' \
    '--plain[Print one line per round instead of the live view]' \
    '--json[Print the result as JSON at the end; never prompt]' \
    '(-q --quiet)-q[Print only warnings, errors and the summary]' \
    '(-q --quiet)--quiet[Print only warnings, errors and the summary]' \
    '(-v --verbose)-v[Also print what is saved; show tracebacks]' \
    '(-v --verbose)--verbose[Also print what is saved; show tracebacks]' \
    '(-y --yes)-y[Answer yes to all prompts]' \
    '(-y --yes)--yes[Answer yes to all prompts]' \
    '--no-input[Never prompt; fail if input is required]' \
    '(-h --help)-h[Show this message and exit]' \
    '(-h --help)--help[Show this message and exit]'
}

_swarmctl__attach() {
  _arguments -S \
    '--node=[Node name]:NODE:_swarmctl_nodes' \
    '--plain[Print one line per round instead of the live view]' \
    '(-h --help)-h[Show this message and exit]' \
    '(-h --help)--help[Show this message and exit]' \
    ':NODE:_swarmctl_nodes'
}

_swarmctl__doctor() {
  _arguments -S \
    '(-p --profile)-p+[Profile name or .toml file]:PROFILE:_swarmctl_profiles' \
    '(-p --profile)--profile=[Profile name or .toml file]:PROFILE:_swarmctl_profiles' \
    '--node=[Node name]:NODE:_swarmctl_nodes' \
    '*--set=[Change any setting (repeatable)]:KEY=VALUE:_swarmctl_settings' \
    '--deep[Also run a training step (up to 2 minutes) and send each provider a test question (may cost money)]' \
    '--offline[Don'\''t use the network]' \
    '--fix[Fix what is safe to fix\: file modes, leftovers, missing directories]' \
    '--report[Print Markdown for a bug report, without keys or names]' \
    '--json[Print JSON]' \
    '(-h --help)-h[Show this message and exit]' \
    '(-h --help)--help[Show this message and exit]' \
    '*:\[CHECK\]...:(machine python accelerator fit keys api swarm hub)'
}

_swarmctl__backup() {
  _arguments -S \
    '(-y --yes)-y[Overwrite an existing file]' \
    '(-y --yes)--yes[Overwrite an existing file]' \
    '--json[Print JSON]' \
    '(-h --help)-h[Show this message and exit]' \
    '(-h --help)--help[Show this message and exit]' \
    ':NODE:_swarmctl_nodes' \
    ':FILE:_files'
}

_swarmctl__restore() {
  _arguments -S \
    '--as=[Create another node, with a new identity]:NAME: ' \
    '--json[Print JSON]' \
    '(-h --help)-h[Show this message and exit]' \
    '(-h --help)--help[Show this message and exit]' \
    ':FILE:_files'
}

_swarmctl__upgrade() {
  _arguments -S \
    '--dry-run[Only show what would change]' \
    '--json[Print JSON]' \
    '(-h --help)-h[Show this message and exit]' \
    '(-h --help)--help[Show this message and exit]' \
    ':NODE:_swarmctl_nodes'
}

_swarmctl__quarantine() {
  _arguments -S \
    '*--lift=[Learn from this peer id or provider again, or from all]:WHO: ' \
    '--json[Print JSON]' \
    '(-h --help)-h[Show this message and exit]' \
    '(-h --help)--help[Show this message and exit]' \
    ':NODE:_swarmctl_nodes'
}

_swarmctl__status() {
  _arguments -S \
    '--node=[Only this node]:NODE:_swarmctl_nodes' \
    '--watch[Update every 2 seconds, until Ctrl-C]' \
    '--json[Print JSON]' \
    '(-h --help)-h[Show this message and exit]' \
    '(-h --help)--help[Show this message and exit]' \
    '*:\[NODE\]...:_swarmctl_nodes'
}

_swarmctl__stop() {
  _arguments -S \
    '--all[Stop every running node]' \
    '--json[Print JSON]' \
    '(-h --help)-h[Show this message and exit]' \
    '(-h --help)--help[Show this message and exit]' \
    '*:\[NODE\]...:_swarmctl_nodes'
}

_swarmctl__restart() {
  _arguments -S \
    '--all[Restart every running node]' \
    '--json[Print JSON]' \
    '(-h --help)-h[Show this message and exit]' \
    '(-h --help)--help[Show this message and exit]' \
    '*:\[NODE\]...:_swarmctl_nodes'
}

_swarmctl__rename() {
  _arguments -S \
    '--json[Print JSON]' \
    '(-h --help)-h[Show this message and exit]' \
    '(-h --help)--help[Show this message and exit]' \
    ':NODE:_swarmctl_nodes' \
    ':NEW: '
}

_swarmctl__fork() {
  _arguments -S \
    '--at=[Checkpoint to use]:STEP: ' \
    '--json[Print JSON]' \
    '(-h --help)-h[Show this message and exit]' \
    '(-h --help)--help[Show this message and exit]' \
    ':NODE:_swarmctl_nodes' \
    ':NEW: '
}

_swarmctl__rm() {
  _arguments -S \
    '(-y --yes)-y[Answer yes to all prompts]' \
    '(-y --yes)--yes[Answer yes to all prompts]' \
    '--no-input[Never prompt; fail if input is required]' \
    '--json[Print JSON; never prompt]' \
    '(-h --help)-h[Show this message and exit]' \
    '(-h --help)--help[Show this message and exit]' \
    '*:NODE...:_swarmctl_nodes'
}

_swarmctl__logs() {
  _arguments -S \
    '--node=[Node name]:NODE:_swarmctl_nodes' \
    '(-n --lines --tail)-n+[Number of lines]:N: ' \
    '(-n --lines --tail)--lines=[Number of lines]:N: ' \
    '(-n --lines --tail)--tail=[Number of lines]:N: ' \
    '(-f --follow)-f[Keep printing new lines]' \
    '(-f --follow)--follow[Keep printing new lines]' \
    '--since=[Only lines since TIME\: 30m, 2h, 14\:05 or 2026-11-28T14\:05]:TIME: ' \
    '--level=[Lowest severity to print\: info, warning or error]:LEVEL:(info warning error)' \
    '--raw[Print the output of the trainer and its libraries instead]' \
    '--json[Print events as JSON lines]' \
    '(-h --help)-h[Show this message and exit]' \
    '(-h --help)--help[Show this message and exit]' \
    ':NODE:_swarmctl_nodes'
}

_swarmctl__report() {
  _arguments -S \
    '(-o --output)-o+[File to write, or - for stdout]:FILE:_files' \
    '(-o --output)--output=[File to write, or - for stdout]:FILE:_files' \
    '--open[Open the page in your browser]' \
    '--serve[Serve the page on this machine and keep it up to date until Ctrl-C]' \
    '--port=[With --serve\: the port]:PORT: ' \
    '--samples=[Sample rollouts per node]:N: ' \
    '(-y --yes)-y[Overwrite an existing file]' \
    '(-y --yes)--yes[Overwrite an existing file]' \
    '--json[Print JSON]' \
    '(-h --help)-h[Show this message and exit]' \
    '(-h --help)--help[Show this message and exit]' \
    '*:\[NODE\]...:_swarmctl_nodes'
}

_swarmctl__models() {
  _arguments -S \
    '(-p --profile)-p+[Profile name or .toml file]:PROFILE:_swarmctl_profiles' \
    '(-p --profile)--profile=[Profile name or .toml file]:PROFILE:_swarmctl_profiles' \
    '*--set=[Change any setting (repeatable)]:KEY=VALUE:_swarmctl_settings' \
    '--json[Print JSON; never prompt]' \
    '--no-input[Never prompt; fail if input is required]' \
    '(-h --help)-h[Show this message and exit]' \
    '(-h --help)--help[Show this message and exit]' \
    ':PROVIDER:(openai deepseek openrouter groq together mistral gemini xai fireworks cerebras vllm sglang llamacpp ollama lmstudio transformers litellm)'
}

_swarmctl__sample() {
  _arguments -S \
    '--checkpoint=[Checkpoint to use]:STEP: ' \
    '--last[Repeat the latest PROMPT]' \
    '--base[With a prompt\: also show the answer before training]' \
    '(-n --questions)-n+[Number of held-out questions]:N: ' \
    '(-n --questions)--questions=[Number of held-out questions]:N: ' \
    '--system=[System prompt; empty for none]:TEXT: ' \
    '--temperature=[Sampling temperature; 0 always picks the most likely token]:T: ' \
    '--seed=[Seed of sampling]:N: ' \
    '--max-tokens=[Maximum tokens per answer]:N: ' \
    '--device=[auto, cpu, cuda, cuda\:1, mps or xpu]:DEVICE:(auto cpu cuda mps xpu)' \
    '--json[Print JSON]' \
    '(-h --help)-h[Show this message and exit]' \
    '(-h --help)--help[Show this message and exit]' \
    ':NODE:_swarmctl_nodes' \
    ':PROMPT: '
}

_swarmctl__chat() {
  _arguments -S \
    '--checkpoint=[Checkpoint to use]:STEP: ' \
    '--base[Talk to the model before training]' \
    '--system=[System prompt; empty for none]:TEXT: ' \
    '--temperature=[Sampling temperature; 0 always picks the most likely token]:T: ' \
    '--seed=[Seed of sampling]:N: ' \
    '--max-tokens=[Maximum tokens per answer]:N: ' \
    '--device=[auto, cpu, cuda, cuda\:1, mps or xpu]:DEVICE:(auto cpu cuda mps xpu)' \
    '--json[Print one JSON line per answer, for scripts]' \
    '(-h --help)-h[Show this message and exit]' \
    '(-h --help)--help[Show this message and exit]' \
    ':NODE:_swarmctl_nodes'
}

_swarmctl__eval() {
  _arguments -S \
    '--against=[Compare with this; base\: the node before training]:TARGET:_swarmctl_nodes' \
    '*--task=[Questions of this task]:TASK:(ab acre aiw arc_1d arc_agi base_conversion basic_arithmetic bf binary_alternation binary_matrix bitwise_arithmetic caesar_cipher calendar_arithmetic chain_sum circuit_logic coin_flip color_cube_rotation count_bits count_primes course_schedule decimal_arithmetic decimal_chain_sum dice emoji_mystery family_relationships figlet_font fraction_simplification futoshiki game_of_life game_of_life_halting gcd group_anagrams gsm8k gsm_symbolic isomorphic_strings jsonl largest_island lcm leg_counting letter_counting letter_jumble mahjong_puzzle manipulate_matrix maze mini_sudoku modulo_grid n_queens needle_haystack number_filtering number_format number_sequence number_sorting palindrome_generation path_star power_function prime_factorization products propositional_logic python-file ransom_note rearc rectangle_count rotate_matrix rotten_oranges sapo self_reference sentence_reordering simple_equations simple_geometry spell_backward spiral_matrix string_insertion string_manipulation string_splitting string_synthesis sudoku survo syllogism tsumego word_sequence_reversal word_sorting zebra_puzzles)' \
    '(-n --questions)-n+[Number of questions]:N: ' \
    '(-n --questions)--questions=[Number of questions]:N: ' \
    '-k+[Also report pass@K]:K: ' \
    '--samples=[Answers per question]:N: ' \
    '--checkpoint=[Checkpoint to use]:STEP: ' \
    '--base[Evaluate NODE'\''s model before training]' \
    '--temperature=[Sampling temperature]:T: ' \
    '--max-tokens=[Maximum tokens per answer]:N: ' \
    '--device=[auto, cpu, cuda, cuda\:1, mps or xpu]:DEVICE:(auto cpu cuda mps xpu)' \
    '(-p --profile)-p+[Profile name or .toml file]:PROFILE:_swarmctl_profiles' \
    '(-p --profile)--profile=[Profile name or .toml file]:PROFILE:_swarmctl_profiles' \
    '--max-usd=[The most this evaluation may spend, or unlimited]:USD:(unlimited)' \
    '--examples=[Also show the first N questions and answers]:N: ' \
    '--json[Print JSON; never prompt]' \
    '(-y --yes)-y[Answer yes to all prompts]' \
    '(-y --yes)--yes[Answer yes to all prompts]' \
    '--no-input[Never prompt; fail if input is required]' \
    '(-h --help)-h[Show this message and exit]' \
    '(-h --help)--help[Show this message and exit]' \
    ':NODE|MODEL|PROVIDER\:MODEL:_swarmctl_nodes'
}

_swarmctl__export() {
  _arguments -S \
    '--checkpoint=[Checkpoint to use]:STEP: ' \
    '--merge[Merge adapters into the base model]' \
    '--gguf[Write one GGUF file instead, for llama.cpp and Ollama]' \
    '--gguf-type=[Like --gguf, with weights as f16, bf16 or q8_0]:TYPE:(f16 bf16 q8_0)' \
    '--ollama[Also write a Modelfile for Ollama]' \
    '--json[Print JSON; never prompt]' \
    '(-y --yes)-y[Answer yes to all prompts]' \
    '(-y --yes)--yes[Answer yes to all prompts]' \
    '--no-input[Never prompt; fail if input is required]' \
    '(-h --help)-h[Show this message and exit]' \
    '(-h --help)--help[Show this message and exit]' \
    ':NODE:_swarmctl_nodes' \
    ':DIR:_files -/'
}

_swarmctl__replay() {
  _arguments -S \
    '--step=[Step to repeat, counted from 1]:N: ' \
    '--device=[auto, cpu, cuda, cuda\:1, mps or xpu]:DEVICE:(auto cpu cuda mps xpu)' \
    '--json[Print JSON]' \
    '(-h --help)-h[Show this message and exit]' \
    '(-h --help)--help[Show this message and exit]' \
    ':NODE:_swarmctl_nodes'
}

_swarmctl__launch() {
  _arguments -S \
    '--print=[sky, dstack, slurm or compose]:KIND:(sky dstack slurm compose)' \
    '--nodes=[Number of new nodes]:N: ' \
    '--gpu=[GPU of each node\: a model such as H100, memory such as 24GB, or none]:GPU: ' \
    '--name=[Name of the new nodes; a number is added]:NAME: ' \
    '--join=[Join a swarm with an invitation, instead of NODE'\''s]:INVITATION: ' \
    '(-p --profile)-p+[Profile name or .toml file]:PROFILE:_swarmctl_profiles' \
    '(-p --profile)--profile=[Profile name or .toml file]:PROFILE:_swarmctl_profiles' \
    '*--task=[Task, preset, or path of your questions]:TASK:(ab acre aiw arc_1d arc_agi base_conversion basic_arithmetic bf binary_alternation binary_matrix bitwise_arithmetic caesar_cipher calendar_arithmetic chain_sum circuit_logic coin_flip color_cube_rotation count_bits count_primes course_schedule decimal_arithmetic decimal_chain_sum dice emoji_mystery family_relationships figlet_font fraction_simplification futoshiki game_of_life game_of_life_halting gcd group_anagrams gsm8k gsm_symbolic isomorphic_strings jsonl largest_island lcm leg_counting letter_counting letter_jumble mahjong_puzzle manipulate_matrix maze mini_sudoku modulo_grid n_queens needle_haystack number_filtering number_format number_sequence number_sorting palindrome_generation path_star power_function prime_factorization products propositional_logic python-file ransom_note rearc rectangle_count rotate_matrix rotten_oranges sapo self_reference sentence_reordering simple_equations simple_geometry spell_backward spiral_matrix string_insertion string_manipulation string_splitting string_synthesis sudoku survo syllogism tsumego word_sequence_reversal word_sorting zebra_puzzles)' \
    '--model=[Hugging Face model id or local directory]:MODEL:_files -/' \
    '--rounds=[Total rounds of each node]:N: ' \
    '--offload=[API to generate with\: a provider, a server'\''s URL, or off]:PROVIDER\[\:MODEL\]:(off openai deepseek openrouter groq together mistral gemini xai fireworks cerebras vllm sglang llamacpp ollama lmstudio transformers litellm)' \
    '--serve=[Each node starts a server of its weights\: vllm or sglang]:COMMAND:_files' \
    '--max-usd=[The most each node may spend in total, or unlimited]:USD:(unlimited)' \
    '*--set=[Change any setting (repeatable)]:KEY=VALUE:_swarmctl_settings' \
    '--json[Print JSON]' \
    '(-h --help)-h[Show this message and exit]' \
    '(-h --help)--help[Show this message and exit]' \
    ':NODE:_swarmctl_nodes'
}

_swarmctl__profiles() {
  local curcontext=$curcontext state line ret=1
  local -a list
  typeset -A opt_args
  _arguments -C \
    '(-h --help)-h[Show this message and exit]' \
    '(-h --help)--help[Show this message and exit]' \
    '(-): :->command' \
    '(-)*:: :->rest' && ret=0
  case $state in
    command)
      list=(
        'list:List built-in profiles and your own'
        'show:Print all of a profile'\''s settings as TOML'
        'validate:Check profiles and print every problem'
        'new:Create a profile'
        'path:Print the path of a profile, or of your profiles directory'
        'edit:Open a profile in your editor, then check it'
        'delete:Delete one of your profiles'
        'import:Create a profile from an RL Swarm YAML file'
      )
      _describe -t commands command list && ret=0
      ;;
    rest)
      case $words[1] in
        list) _swarmctl__profiles__list && ret=0 ;;
        show) _swarmctl__profiles__show && ret=0 ;;
        validate) _swarmctl__profiles__validate && ret=0 ;;
        new) _swarmctl__profiles__new && ret=0 ;;
        path) _swarmctl__profiles__path && ret=0 ;;
        edit) _swarmctl__profiles__edit && ret=0 ;;
        delete) _swarmctl__profiles__delete && ret=0 ;;
        import) _swarmctl__profiles__import && ret=0 ;;
      esac
      ;;
  esac
  return ret
}

_swarmctl__profiles__list() {
  _arguments -S \
    '--json[Print JSON]' \
    '(-h --help)-h[Show this message and exit]' \
    '(-h --help)--help[Show this message and exit]'
}

_swarmctl__profiles__show() {
  _arguments -S \
    '--origin[Show where each value comes from]' \
    '*--set=[Change any setting (repeatable)]:KEY=VALUE:_swarmctl_settings' \
    '--json[Print JSON]' \
    '(-h --help)-h[Show this message and exit]' \
    '(-h --help)--help[Show this message and exit]' \
    ':PROFILE:_swarmctl_profiles'
}

_swarmctl__profiles__validate() {
  _arguments -S \
    '--json[Print JSON]' \
    '(-h --help)-h[Show this message and exit]' \
    '(-h --help)--help[Show this message and exit]' \
    ':PROFILE:_swarmctl_profiles'
}

_swarmctl__profiles__new() {
  _arguments -S \
    '--from=[Built-in profile to start from]:BUILTIN:(cpu default demo gpu mac smol)' \
    '--model=[Hugging Face model id or local directory]:MODEL:_files -/' \
    '*--task=[Task or preset (repeatable)]:TASK:(ab acre aiw arc_1d arc_agi base_conversion basic_arithmetic bf binary_alternation binary_matrix bitwise_arithmetic caesar_cipher calendar_arithmetic chain_sum circuit_logic coin_flip color_cube_rotation count_bits count_primes course_schedule decimal_arithmetic decimal_chain_sum dice emoji_mystery family_relationships figlet_font fraction_simplification futoshiki game_of_life game_of_life_halting gcd group_anagrams gsm8k gsm_symbolic isomorphic_strings jsonl largest_island lcm leg_counting letter_counting letter_jumble mahjong_puzzle manipulate_matrix maze mini_sudoku modulo_grid n_queens needle_haystack number_filtering number_format number_sequence number_sorting palindrome_generation path_star power_function prime_factorization products propositional_logic python-file ransom_note rearc rectangle_count rotate_matrix rotten_oranges sapo self_reference sentence_reordering simple_equations simple_geometry spell_backward spiral_matrix string_insertion string_manipulation string_splitting string_synthesis sudoku survo syllogism tsumego word_sequence_reversal word_sorting zebra_puzzles)' \
    '--device=[auto, cpu, cuda, cuda\:1, mps or xpu]:DEVICE:(auto cpu cuda mps xpu)' \
    '--rounds=[Total rounds; 0\: until you stop it]:N: ' \
    '--offload=[API to generate with\: a provider, a server'\''s URL, or off]:PROVIDER\[\:MODEL\]:(off openai deepseek openrouter groq together mistral gemini xai fireworks cerebras vllm sglang llamacpp ollama lmstudio transformers litellm)' \
    '--max-usd=[The most the node may spend in total, or unlimited]:USD:(unlimited)' \
    '*--set=[Change any setting (repeatable)]:KEY=VALUE:_swarmctl_settings' \
    '(-y --yes)-y[Overwrite an existing profile]' \
    '(-y --yes)--yes[Overwrite an existing profile]' \
    '--no-input[Never prompt]' \
    '--json[Print JSON]' \
    '(-h --help)-h[Show this message and exit]' \
    '(-h --help)--help[Show this message and exit]' \
    ':NAME: '
}

_swarmctl__profiles__path() {
  _arguments -S \
    '--json[Print JSON]' \
    '(-h --help)-h[Show this message and exit]' \
    '(-h --help)--help[Show this message and exit]' \
    ':\[PROFILE\]:_swarmctl_profiles'
}

_swarmctl__profiles__edit() {
  _arguments -S \
    '(-h --help)-h[Show this message and exit]' \
    '(-h --help)--help[Show this message and exit]' \
    ':PROFILE:_swarmctl_profiles'
}

_swarmctl__profiles__delete() {
  _arguments -S \
    '(-y --yes)-y[Answer yes to all prompts]' \
    '(-y --yes)--yes[Answer yes to all prompts]' \
    '--no-input[Never prompt; fail if input is required]' \
    '--json[Print JSON; never prompt]' \
    '(-h --help)-h[Show this message and exit]' \
    '(-h --help)--help[Show this message and exit]' \
    ':PROFILE:_swarmctl_profiles'
}

_swarmctl__profiles__import() {
  _arguments -S \
    '--name=[Name of the profile]:NAME: ' \
    '--no-test[Save API keys without testing]' \
    '--insecure-storage[Store API keys unencrypted in files only you can read]' \
    '(-y --yes)-y[Overwrite an existing profile]' \
    '(-y --yes)--yes[Overwrite an existing profile]' \
    '--no-input[Never prompt]' \
    '--json[Print JSON]' \
    '(-h --help)-h[Show this message and exit]' \
    '(-h --help)--help[Show this message and exit]' \
    ':FILE.yaml:_files'
}

_swarmctl__keys() {
  local curcontext=$curcontext state line ret=1
  local -a list
  typeset -A opt_args
  _arguments -C \
    '(-h --help)-h[Show this message and exit]' \
    '(-h --help)--help[Show this message and exit]' \
    '(-): :->command' \
    '(-)*:: :->rest' && ret=0
  case $state in
    command)
      list=(
        'set:Save an API key (hidden prompt or stdin)'
        'list:List API keys'
        'test:Test whether services accept your keys'
        'delete:Delete a saved key from the keyring or its file'
        'import:Save keys found in the environment or a .env file'
      )
      _describe -t commands command list && ret=0
      ;;
    rest)
      case $words[1] in
        set) _swarmctl__keys__set && ret=0 ;;
        list) _swarmctl__keys__list && ret=0 ;;
        test) _swarmctl__keys__test && ret=0 ;;
        delete) _swarmctl__keys__delete && ret=0 ;;
        import) _swarmctl__keys__import && ret=0 ;;
      esac
      ;;
  esac
  return ret
}

_swarmctl__keys__set() {
  _arguments -S \
    '--host=[Base URL of the API, for a name you choose]:URL: ' \
    '--no-test[Save without testing]' \
    '--insecure-storage[Store the key unencrypted in a file only you can read]' \
    '--json[Print JSON; never prompt]' \
    '(-y --yes)-y[Answer yes to all prompts]' \
    '(-y --yes)--yes[Answer yes to all prompts]' \
    '--no-input[Never prompt; fail if input is required]' \
    '(-h --help)-h[Show this message and exit]' \
    '(-h --help)--help[Show this message and exit]' \
    ':NAME:(openai deepseek openrouter groq together mistral gemini xai fireworks cerebras huggingface wandb)'
}

_swarmctl__keys__list() {
  _arguments -S \
    '--json[Print JSON; never prompt]' \
    '(-h --help)-h[Show this message and exit]' \
    '(-h --help)--help[Show this message and exit]'
}

_swarmctl__keys__test() {
  _arguments -S \
    '--json[Print JSON; never prompt]' \
    '--no-input[Never prompt; fail if input is required]' \
    '(-h --help)-h[Show this message and exit]' \
    '(-h --help)--help[Show this message and exit]' \
    ':NAME:(openai deepseek openrouter groq together mistral gemini xai fireworks cerebras huggingface wandb)'
}

_swarmctl__keys__delete() {
  _arguments -S \
    '--all[Delete every saved key]' \
    '--json[Print JSON; never prompt]' \
    '(-y --yes)-y[Answer yes to all prompts]' \
    '(-y --yes)--yes[Answer yes to all prompts]' \
    '--no-input[Never prompt; fail if input is required]' \
    '(-h --help)-h[Show this message and exit]' \
    '(-h --help)--help[Show this message and exit]' \
    ':NAME:(openai deepseek openrouter groq together mistral gemini xai fireworks cerebras huggingface wandb)'
}

_swarmctl__keys__import() {
  _arguments -S \
    '--no-test[Save without testing]' \
    '--insecure-storage[Store the key unencrypted in a file only you can read]' \
    '--json[Print JSON; never prompt]' \
    '(-y --yes)-y[Answer yes to all prompts]' \
    '(-y --yes)--yes[Answer yes to all prompts]' \
    '--no-input[Never prompt; fail if input is required]' \
    '(-h --help)-h[Show this message and exit]' \
    '(-h --help)--help[Show this message and exit]' \
    ':FILE:_files'
}

_swarmctl__tasks() {
  local curcontext=$curcontext state line ret=1
  local -a list
  typeset -A opt_args
  _arguments -C \
    '(-h --help)-h[Show this message and exit]' \
    '(-h --help)--help[Show this message and exit]' \
    '(-): :->command' \
    '(-)*:: :->rest' && ret=0
  case $state in
    command)
      list=(
        'list:List all tasks with a description'
        'show:Print a task'\''s parameters and some of its questions'
        'try:Answer a task'\''s questions, and see how your answers score'
      )
      _describe -t commands command list && ret=0
      ;;
    rest)
      case $words[1] in
        list) _swarmctl__tasks__list && ret=0 ;;
        show) _swarmctl__tasks__show && ret=0 ;;
        try) _swarmctl__tasks__try && ret=0 ;;
      esac
      ;;
  esac
  return ret
}

_swarmctl__tasks__list() {
  _arguments -S \
    '--json[Print JSON]' \
    '(-h --help)-h[Show this message and exit]' \
    '(-h --help)--help[Show this message and exit]'
}

_swarmctl__tasks__show() {
  _arguments -S \
    '(-n --questions)-n+[Number of questions]:N: ' \
    '(-n --questions)--questions=[Number of questions]:N: ' \
    '*--param=[Change a parameter of the task (repeatable)]:NAME=VALUE: ' \
    '--seed=[Seed of the questions]:N: ' \
    '--full[Don'\''t truncate long texts]' \
    '--json[Print JSON; never prompt]' \
    '(-y --yes)-y[Answer yes to all prompts]' \
    '(-y --yes)--yes[Answer yes to all prompts]' \
    '--no-input[Never prompt; fail if input is required]' \
    '(-h --help)-h[Show this message and exit]' \
    '(-h --help)--help[Show this message and exit]' \
    ':TASK:(ab acre aiw arc_1d arc_agi base_conversion basic_arithmetic bf binary_alternation binary_matrix bitwise_arithmetic caesar_cipher calendar_arithmetic chain_sum circuit_logic coin_flip color_cube_rotation count_bits count_primes course_schedule decimal_arithmetic decimal_chain_sum dice emoji_mystery family_relationships figlet_font fraction_simplification futoshiki game_of_life game_of_life_halting gcd group_anagrams gsm8k gsm_symbolic isomorphic_strings jsonl largest_island lcm leg_counting letter_counting letter_jumble mahjong_puzzle manipulate_matrix maze mini_sudoku modulo_grid n_queens needle_haystack number_filtering number_format number_sequence number_sorting palindrome_generation path_star power_function prime_factorization products propositional_logic python-file ransom_note rearc rectangle_count rotate_matrix rotten_oranges sapo self_reference sentence_reordering simple_equations simple_geometry spell_backward spiral_matrix string_insertion string_manipulation string_splitting string_synthesis sudoku survo syllogism tsumego word_sequence_reversal word_sorting zebra_puzzles)'
}

_swarmctl__tasks__try() {
  _arguments -S \
    '*--answer=[Answer to the first question, or next turn (repeatable)]:TEXT: ' \
    '*--param=[Change a parameter of the task (repeatable)]:NAME=VALUE: ' \
    '--seed=[Seed of the questions]:N: ' \
    '--json[Print JSON; never prompt]' \
    '(-y --yes)-y[Answer yes to all prompts]' \
    '(-y --yes)--yes[Answer yes to all prompts]' \
    '--no-input[Never prompt; fail if input is required]' \
    '(-h --help)-h[Show this message and exit]' \
    '(-h --help)--help[Show this message and exit]' \
    ':TASK:(ab acre aiw arc_1d arc_agi base_conversion basic_arithmetic bf binary_alternation binary_matrix bitwise_arithmetic caesar_cipher calendar_arithmetic chain_sum circuit_logic coin_flip color_cube_rotation count_bits count_primes course_schedule decimal_arithmetic decimal_chain_sum dice emoji_mystery family_relationships figlet_font fraction_simplification futoshiki game_of_life game_of_life_halting gcd group_anagrams gsm8k gsm_symbolic isomorphic_strings jsonl largest_island lcm leg_counting letter_counting letter_jumble mahjong_puzzle manipulate_matrix maze mini_sudoku modulo_grid n_queens needle_haystack number_filtering number_format number_sequence number_sorting palindrome_generation path_star power_function prime_factorization products propositional_logic python-file ransom_note rearc rectangle_count rotate_matrix rotten_oranges sapo self_reference sentence_reordering simple_equations simple_geometry spell_backward spiral_matrix string_insertion string_manipulation string_splitting string_synthesis sudoku survo syllogism tsumego word_sequence_reversal word_sorting zebra_puzzles)'
}

_swarmctl__rollouts() {
  local curcontext=$curcontext state line ret=1
  local -a list
  typeset -A opt_args
  _arguments -C \
    '(-h --help)-h[Show this message and exit]' \
    '(-h --help)--help[Show this message and exit]' \
    '(-): :->command' \
    '(-)*:: :->rest' && ret=0
  case $state in
    command)
      list=(
        'show:Print rollouts with prompt, reward, source and cost'
        'export:Export completions as JSON lines, CSV or Parquet'
        'stats:Count requests, tokens, cost, completions and results'
      )
      _describe -t commands command list && ret=0
      ;;
    rest)
      case $words[1] in
        show) _swarmctl__rollouts__show && ret=0 ;;
        export) _swarmctl__rollouts__export && ret=0 ;;
        stats) _swarmctl__rollouts__stats && ret=0 ;;
      esac
      ;;
  esac
  return ret
}

_swarmctl__rollouts__show() {
  _arguments -S \
    '--node=[Node name]:NODE:_swarmctl_nodes' \
    '--round=[Only this round, from 1]:N: ' \
    '--question=[Only questions whose digest starts with this]:DIGEST: ' \
    '--source=[Only this kind (teacher, policy, …) or provider (openai, local, …)]:SOURCE:(policy policy_text teacher hinted peer relay local openai deepseek openrouter groq together mistral gemini xai fireworks cerebras vllm sglang llamacpp ollama lmstudio transformers litellm)' \
    '--last=[Only the latest N]:N: ' \
    '--full[Don'\''t truncate long texts]' \
    '--json[Print JSON]' \
    '(-h --help)-h[Show this message and exit]' \
    '(-h --help)--help[Show this message and exit]' \
    ':NODE:_swarmctl_nodes'
}

_swarmctl__rollouts__export() {
  _arguments -S \
    '--node=[Node name]:NODE:_swarmctl_nodes' \
    '--round=[Only this round, from 1]:N: ' \
    '--question=[Only questions whose digest starts with this]:DIGEST: ' \
    '--source=[Only this kind (teacher, policy, …) or provider (openai, local, …)]:SOURCE:(policy policy_text teacher hinted peer relay local openai deepseek openrouter groq together mistral gemini xai fireworks cerebras vllm sglang llamacpp ollama lmstudio transformers litellm)' \
    '--last=[Only the latest N]:N: ' \
    '--correct[Only completions verified as correct]' \
    '--format=[jsonl, csv or parquet]:FORMAT:(jsonl csv parquet)' \
    '(-o --output)-o+[Output file, or - for stdout]:FILE:_files' \
    '(-o --output)--output=[Output file, or - for stdout]:FILE:_files' \
    '(-y --yes)-y[Overwrite an existing file]' \
    '(-y --yes)--yes[Overwrite an existing file]' \
    '(-h --help)-h[Show this message and exit]' \
    '(-h --help)--help[Show this message and exit]' \
    ':NODE:_swarmctl_nodes'
}

_swarmctl__rollouts__stats() {
  _arguments -S \
    '--node=[Node name]:NODE:_swarmctl_nodes' \
    '--by=[Group by any of provider,model,stage]:KEYS:(provider model stage)' \
    '--json[Print JSON]' \
    '(-h --help)-h[Show this message and exit]' \
    '(-h --help)--help[Show this message and exit]' \
    ':NODE:_swarmctl_nodes'
}

_swarmctl__swarm() {
  local curcontext=$curcontext state line ret=1
  local -a list
  typeset -A opt_args
  _arguments -C \
    '(-h --help)-h[Show this message and exit]' \
    '(-h --help)--help[Show this message and exit]' \
    '(-): :->command' \
    '(-)*:: :->rest' && ret=0
  case $state in
    command)
      list=(
        'new:Create a swarm and its first node'
        'join:Join a swarm: create a node in it, and start the node'
        'list:List the swarms that this machine'\''s nodes are in'
        'show:Show a swarm'\''s charter and this machine'\''s node in it'
        'invite:Print the command that others use to join'
        'peers:List the peers that the node knows'
        'leaderboard:Rank peers by what the node learned from them'
        'leave:Leave a swarm and continue alone'
      )
      _describe -t commands command list && ret=0
      ;;
    rest)
      case $words[1] in
        new) _swarmctl__swarm__new && ret=0 ;;
        join) _swarmctl__swarm__join && ret=0 ;;
        list) _swarmctl__swarm__list && ret=0 ;;
        show) _swarmctl__swarm__show && ret=0 ;;
        invite) _swarmctl__swarm__invite && ret=0 ;;
        peers) _swarmctl__swarm__peers && ret=0 ;;
        leaderboard) _swarmctl__swarm__leaderboard && ret=0 ;;
        leave) _swarmctl__swarm__leave && ret=0 ;;
      esac
      ;;
  esac
  return ret
}

_swarmctl__swarm__new() {
  _arguments -S \
    '(-p --profile)-p+[Profile of the first node]:PROFILE:_swarmctl_profiles' \
    '(-p --profile)--profile=[Profile of the first node]:PROFILE:_swarmctl_profiles' \
    '*--task=[Task, preset, or path of your questions]:TASK:(ab acre aiw arc_1d arc_agi base_conversion basic_arithmetic bf binary_alternation binary_matrix bitwise_arithmetic caesar_cipher calendar_arithmetic chain_sum circuit_logic coin_flip color_cube_rotation count_bits count_primes course_schedule decimal_arithmetic decimal_chain_sum dice emoji_mystery family_relationships figlet_font fraction_simplification futoshiki game_of_life game_of_life_halting gcd group_anagrams gsm8k gsm_symbolic isomorphic_strings jsonl largest_island lcm leg_counting letter_counting letter_jumble mahjong_puzzle manipulate_matrix maze mini_sudoku modulo_grid n_queens needle_haystack number_filtering number_format number_sequence number_sorting palindrome_generation path_star power_function prime_factorization products propositional_logic python-file ransom_note rearc rectangle_count rotate_matrix rotten_oranges sapo self_reference sentence_reordering simple_equations simple_geometry spell_backward spiral_matrix string_insertion string_manipulation string_splitting string_synthesis sudoku survo syllogism tsumego word_sequence_reversal word_sorting zebra_puzzles)' \
    '--game=[sampling or study-group]:GAME:(sampling study-group)' \
    '--stage-time=[Seconds per stage of the study-group game]:SECONDS: ' \
    '--open[Let anyone join; peers fill at most a quarter of each batch]' \
    '*--set=[Change any setting of the first node (repeatable)]:KEY=VALUE:_swarmctl_settings' \
    '--json[Print JSON]' \
    '(-h --help)-h[Show this message and exit]' \
    '(-h --help)--help[Show this message and exit]' \
    ':NAME: '
}

_swarmctl__swarm__join() {
  _arguments -S \
    '--node=[Name of the new node]:NODE:_swarmctl_nodes' \
    '(-p --profile)-p+[Profile name or .toml file]:PROFILE:_swarmctl_profiles' \
    '(-p --profile)--profile=[Profile name or .toml file]:PROFILE:_swarmctl_profiles' \
    '*--task=[Task, preset, or path of your questions]:TASK:(ab acre aiw arc_1d arc_agi base_conversion basic_arithmetic bf binary_alternation binary_matrix bitwise_arithmetic caesar_cipher calendar_arithmetic chain_sum circuit_logic coin_flip color_cube_rotation count_bits count_primes course_schedule decimal_arithmetic decimal_chain_sum dice emoji_mystery family_relationships figlet_font fraction_simplification futoshiki game_of_life game_of_life_halting gcd group_anagrams gsm8k gsm_symbolic isomorphic_strings jsonl largest_island lcm leg_counting letter_counting letter_jumble mahjong_puzzle manipulate_matrix maze mini_sudoku modulo_grid n_queens needle_haystack number_filtering number_format number_sequence number_sorting palindrome_generation path_star power_function prime_factorization products propositional_logic python-file ransom_note rearc rectangle_count rotate_matrix rotten_oranges sapo self_reference sentence_reordering simple_equations simple_geometry spell_backward spiral_matrix string_insertion string_manipulation string_splitting string_synthesis sudoku survo syllogism tsumego word_sequence_reversal word_sorting zebra_puzzles)' \
    '*--set=[Change any setting (repeatable)]:KEY=VALUE:_swarmctl_settings' \
    '--dry-run[Show the plan; change nothing]' \
    '(-d --detach)-d[Continue in the background once the node has started]' \
    '(-d --detach)--detach[Continue in the background once the node has started]' \
    '--plain[Print one line per round instead of the live view]' \
    '--json[Print JSON; never prompt]' \
    '(-y --yes)-y[Answer yes to all prompts]' \
    '(-y --yes)--yes[Answer yes to all prompts]' \
    '--no-input[Never prompt; fail if input is required]' \
    '(-h --help)-h[Show this message and exit]' \
    '(-h --help)--help[Show this message and exit]' \
    ':INVITATION: '
}

_swarmctl__swarm__list() {
  _arguments -S \
    '--json[Print JSON]' \
    '(-h --help)-h[Show this message and exit]' \
    '(-h --help)--help[Show this message and exit]'
}

_swarmctl__swarm__show() {
  _arguments -S \
    '--node=[Node to use]:NODE:_swarmctl_nodes' \
    '--json[Print JSON]' \
    '(-h --help)-h[Show this message and exit]' \
    '(-h --help)--help[Show this message and exit]' \
    ':NODE:_swarmctl_nodes'
}

_swarmctl__swarm__invite() {
  _arguments -S \
    '--node=[Node to use]:NODE:_swarmctl_nodes' \
    '--json[Print JSON]' \
    '(-h --help)-h[Show this message and exit]' \
    '(-h --help)--help[Show this message and exit]' \
    ':NODE:_swarmctl_nodes'
}

_swarmctl__swarm__peers() {
  _arguments -S \
    '--node=[Node to use]:NODE:_swarmctl_nodes' \
    '--json[Print JSON]' \
    '(-h --help)-h[Show this message and exit]' \
    '(-h --help)--help[Show this message and exit]' \
    ':NODE:_swarmctl_nodes'
}

_swarmctl__swarm__leaderboard() {
  _arguments -S \
    '--node=[Node to use]:NODE:_swarmctl_nodes' \
    '--json[Print JSON]' \
    '(-h --help)-h[Show this message and exit]' \
    '(-h --help)--help[Show this message and exit]' \
    ':NODE:_swarmctl_nodes'
}

_swarmctl__swarm__leave() {
  _arguments -S \
    '--node=[Node to use]:NODE:_swarmctl_nodes' \
    '(-y --yes)-y[Answer yes to all prompts]' \
    '(-y --yes)--yes[Answer yes to all prompts]' \
    '--no-input[Never prompt; fail if input is required]' \
    '--json[Print JSON; never prompt]' \
    '(-h --help)-h[Show this message and exit]' \
    '(-h --help)--help[Show this message and exit]' \
    ':NODE:_swarmctl_nodes'
}

_swarmctl__identity() {
  local curcontext=$curcontext state line ret=1
  local -a list
  typeset -A opt_args
  _arguments -C \
    '(-h --help)-h[Show this message and exit]' \
    '(-h --help)--help[Show this message and exit]' \
    '(-): :->command' \
    '(-)*:: :->rest' && ret=0
  case $state in
    command)
      list=(
        'show:Show the identities of this machine'\''s nodes'
        'new:Create a new identity for a node'
        'backup:Save a node'\''s identity to a file'
        'restore:Restore a node'\''s identity from a backup'
      )
      _describe -t commands command list && ret=0
      ;;
    rest)
      case $words[1] in
        show) _swarmctl__identity__show && ret=0 ;;
        new) _swarmctl__identity__new && ret=0 ;;
        backup) _swarmctl__identity__backup && ret=0 ;;
        restore) _swarmctl__identity__restore && ret=0 ;;
      esac
      ;;
  esac
  return ret
}

_swarmctl__identity__show() {
  _arguments -S \
    '--node=[Only this node]:NODE:_swarmctl_nodes' \
    '--json[Print JSON]' \
    '(-h --help)-h[Show this message and exit]' \
    '(-h --help)--help[Show this message and exit]'
}

_swarmctl__identity__new() {
  _arguments -S \
    '--node=[Node to use]:NODE:_swarmctl_nodes' \
    '(-y --yes)-y[Answer yes to all prompts]' \
    '(-y --yes)--yes[Answer yes to all prompts]' \
    '--no-input[Never prompt; fail if input is required]' \
    '--json[Print JSON; never prompt]' \
    '(-h --help)-h[Show this message and exit]' \
    '(-h --help)--help[Show this message and exit]'
}

_swarmctl__identity__backup() {
  _arguments -S \
    '--node=[Node to use]:NODE:_swarmctl_nodes' \
    '--passphrase[Encrypt it with a passphrase (hidden prompt or stdin)]' \
    '(-y --yes)-y[Overwrite an existing file]' \
    '(-y --yes)--yes[Overwrite an existing file]' \
    '--no-input[Never prompt; fail if input is required]' \
    '--json[Print JSON; never prompt]' \
    '(-h --help)-h[Show this message and exit]' \
    '(-h --help)--help[Show this message and exit]' \
    ':FILE:_files'
}

_swarmctl__identity__restore() {
  _arguments -S \
    '--node=[Node to use]:NODE:_swarmctl_nodes' \
    '(-y --yes)-y[Answer yes to all prompts]' \
    '(-y --yes)--yes[Answer yes to all prompts]' \
    '--no-input[Never prompt; fail if input is required]' \
    '--json[Print JSON; never prompt]' \
    '(-h --help)-h[Show this message and exit]' \
    '(-h --help)--help[Show this message and exit]' \
    ':FILE:_files'
}

_swarmctl__service() {
  local curcontext=$curcontext state line ret=1
  local -a list
  typeset -A opt_args
  _arguments -C \
    '(-h --help)-h[Show this message and exit]' \
    '(-h --help)--help[Show this message and exit]' \
    '(-): :->command' \
    '(-)*:: :->rest' && ret=0
  case $state in
    command)
      list=(
        'install:Run a node as a service, now and after every reboot'
        'uninstall:Stop and delete a node'\''s service; the node stays'
        'status:Show which nodes run as services'
      )
      _describe -t commands command list && ret=0
      ;;
    rest)
      case $words[1] in
        install) _swarmctl__service__install && ret=0 ;;
        uninstall) _swarmctl__service__uninstall && ret=0 ;;
        status) _swarmctl__service__status && ret=0 ;;
      esac
      ;;
  esac
  return ret
}

_swarmctl__service__install() {
  _arguments -S \
    '*--key=[A file with a key that the service needs (repeatable)]:NAME=FILE: ' \
    '--print=[Only print the file\: systemd, launchd or compose]:KIND:(systemd launchd compose)' \
    '--json[Print JSON]' \
    '(-h --help)-h[Show this message and exit]' \
    '(-h --help)--help[Show this message and exit]' \
    ':NODE:_swarmctl_nodes'
}

_swarmctl__service__uninstall() {
  _arguments -S \
    '--json[Print JSON]' \
    '(-h --help)-h[Show this message and exit]' \
    '(-h --help)--help[Show this message and exit]' \
    ':NODE:_swarmctl_nodes'
}

_swarmctl__service__status() {
  _arguments -S \
    '--json[Print JSON]' \
    '(-h --help)-h[Show this message and exit]' \
    '(-h --help)--help[Show this message and exit]' \
    ':NODE:_swarmctl_nodes'
}

_swarmctl__completion() {
  local curcontext=$curcontext state line ret=1
  local -a list
  typeset -A opt_args
  _arguments -C \
    '(-h --help)-h[Show this message and exit]' \
    '(-h --help)--help[Show this message and exit]' \
    '(-): :->command' \
    '(-)*:: :->rest' && ret=0
  case $state in
    command)
      list=(
        'install:Install the completion script for a shell'
        'uninstall:Delete the installed completion script'
        'show:Print the completion script'
      )
      _describe -t commands command list && ret=0
      ;;
    rest)
      case $words[1] in
        install) _swarmctl__completion__install && ret=0 ;;
        uninstall) _swarmctl__completion__uninstall && ret=0 ;;
        show) _swarmctl__completion__show && ret=0 ;;
      esac
      ;;
  esac
  return ret
}

_swarmctl__completion__install() {
  _arguments -S \
    '(-y --yes)-y[Overwrite a file not written by swarmctl]' \
    '(-y --yes)--yes[Overwrite a file not written by swarmctl]' \
    '--json[Print JSON]' \
    '(-h --help)-h[Show this message and exit]' \
    '(-h --help)--help[Show this message and exit]' \
    ':SHELL:(bash zsh fish)'
}

_swarmctl__completion__uninstall() {
  _arguments -S \
    '(-y --yes)-y[Delete a file not written by swarmctl]' \
    '(-y --yes)--yes[Delete a file not written by swarmctl]' \
    '--json[Print JSON]' \
    '(-h --help)-h[Show this message and exit]' \
    '(-h --help)--help[Show this message and exit]' \
    ':SHELL:(bash zsh fish)'
}

_swarmctl__completion__show() {
  _arguments -S \
    '(-h --help)-h[Show this message and exit]' \
    '(-h --help)--help[Show this message and exit]' \
    ':SHELL:(bash zsh fish)'
}

# When zsh loads this file from fpath, it is the body of _swarmctl, and this is its first call.
if [[ ${funcstack[1]-} == _swarmctl ]]; then
  _swarmctl "$@"
elif (( $+functions[compdef] )); then
  compdef _swarmctl swarmctl
fi
