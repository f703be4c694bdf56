// What lab.py asks of the page: functions over the one notebook that is open in this JupyterLab.
window.lab = (() => {
  const app = () => window.jupyterapp;
  const panel = () => app().shell.currentWidget;
  const kernel = () => panel().sessionContext.session?.kernel;
  const codeCells = () => panel().content.widgets.filter(cell => cell.model.type === "code");
  let subshell = null;      // a second place in the kernel, which answers while a cell runs

  async function beside() {
    if (!kernel().supportsSubshells) throw new Error("this kernel has no subshells");
    if (!subshell) {
      const reply = await kernel().requestCreateSubshell({}).done;
      subshell = kernel().clone();
      subshell.subshellId = reply.content.subshell_id;
    }
    return subshell;
  }

  return {
    ready: () => app()?.shell.currentWidget?.context?.isReady && kernel()?.status === "idle",
    finished: index => codeCells()[index].model.executionCount !== null,

    run(index) {            // null for all cells
      const cells = index === null ? codeCells() : [codeCells()[index]];
      for (const cell of cells) cell.model.executionCount = null;
      panel().content.activeCellIndex = panel().content.widgets.indexOf(cells[0]);
      app().commands.execute(index === null ? "notebook:run-all-cells" : "notebook:run-cell");
    },

    async python([code, aside]) {
      const said = {text: "", error: ""};
      const future = (aside ? await beside() : kernel()).requestExecute({code, store_history: false});
      future.onIOPub = ({header, content}) => {
        if (header.msg_type === "stream") said.text += content.text;
        if (header.msg_type === "execute_result") said.text += content.data["text/plain"];
        if (header.msg_type === "error") said.error = content.traceback.join("\n");
      };
      await future.done;
      return said;
    },

    command: async ([name, given]) => { await app().commands.execute(name, given); },
    save: () => panel().context.save(),
    shutDown: () => panel().sessionContext.shutdown(),
  };
})();
